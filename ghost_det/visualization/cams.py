"""Where a detector looks in an image: the evidence for one box, and the activity of each level."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ghost_det.deploy.detector import Detections
from ghost_det.errors import UserError

from .maps import watched
from .networks import Array, Network, Picture


class _Attached(TorchFunctionMode):
    """Let gradients through where mmdet's heads detach their scores before they choose among boxes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.detach else func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Cam:
    """The evidence for a detection.

    Attributes:
        heat: ``[height, width]`` of the image, 0 to 1.
        found: only this detection.
        levels: for each map of the neck, its share of the evidence.
    """

    heat: Array
    found: Detections
    levels: tuple[float, ...]


def cam(network: Network, image: Picture, index: int = 0) -> Cam:
    """Return which cells of the neck's maps raise the score of a detection; 0 is the highest-scoring.

    The gradient of the box's score, as it comes out of the complete detector, is multiplied with the maps,
    cell by cell; only the positive part is kept. Averaging the gradient over the map first, as Grad-CAM
    does, would light up every object of the class.

    Source: HiResCAM (arXiv 2011.08891), section 3, on the maps of all levels.

    Raises:
        UserError: there is no such detection, or the head lets no gradient through.
    """
    levels, sample = _run(network, image, 'neck', grad=True)
    found = sample.pred_instances
    found = found[found.scores.detach().argsort(descending=True, stable=True)]
    if not 0 <= index < len(found):
        raise UserError(f'--index {index}: {network.name} finds {len(found)} objects; the first is 0')
    if not found.scores.requires_grad:
        raise UserError(f'{network.name}: no gradient flows from its scores to the maps')
    cells = evidence(found.scores[index], levels)
    sums = np.array([float(each.sum()) for each in cells])
    # A cell's evidence is spread over its pixels, so that coarse levels do not drown fine ones.
    heat = np.sum([_resize(_crop(each, sample), image) * each.numel() for each in cells], axis=0)
    one = found[index].detach().cpu().numpy()
    shares = tuple((sums / max(sums.sum(), 1e-30)).tolist())
    return Cam(heat / max(heat.max(), 1e-30), Detections(one.bboxes, one.scores, one.labels), shares)


def evidence(score: Tensor, levels: list[Tensor]) -> list[Tensor]:
    """Return ``[H, W]`` for each map ``[1, C, H, W]``: the positive part of gradient times map."""
    slopes = torch.autograd.grad(score, levels, allow_unused=True, materialize_grads=True)
    return [(slope * level)[0].sum(0).clamp(min=0).detach().cpu() for slope, level in zip(slopes, levels)]


def pyramid(network: Network, image: Picture, part: str = 'neck') -> dict[str, Array]:
    """Return the mean absolute activation of each level of ``'neck'`` or ``'backbone'``, without padding."""
    levels, sample = _run(network, image, part)
    return {f'{part} {number}': _crop(each[0].abs().mean(0), sample) for number, each in enumerate(levels)}


def overlay(image: Picture, heat: Array) -> Any:
    """Return an image in RGB with a map of 0 to 1, of any size, over it; heat hides the image."""
    from matplotlib import colormaps

    picture = np.asarray(image)[..., :3]
    heat = np.clip(_resize(heat, picture), 0, 1)
    cover = 0.75 * np.sqrt(heat)[..., None]
    mixed = (1 - cover) * picture + cover * 255 * colormaps['inferno'](heat)[..., :3]
    return mixed.round().astype(np.uint8)


def _run(network: Network, image: Picture, part: str, grad: bool = False) -> tuple[list[Tensor], Any]:
    """Return a part's maps, finest first, and the sample that came out."""
    if network.pipeline is None:
        raise UserError(f'{network.name}: expected a detector (CONFIG and CHECKPOINT), got a classifier')
    if part == 'neck' and getattr(network.module, 'neck', None) is None:
        part = 'backbone'
    seen: list[Tensor] = []

    def see(_: str, __: Any, output: Any) -> None:
        if not seen:
            seen.extend(each for each in output if isinstance(each, Tensor) and each.dim() == 4)

    attached = _Attached() if grad else contextlib.nullcontext()
    with watched(network.module, see, part), torch.set_grad_enabled(grad), attached:
        sample = network.run(image)
    if not seen:
        raise UserError(f'{network.name}: its {part} returns no feature maps')
    return seen, sample


def _crop(cells: Tensor, sample: Any) -> Array:
    """Return the cells that lie over the image; behind them, right and below, is padding."""
    sides = zip(cells.shape, sample.img_shape, sample.batch_input_shape)
    rows, columns = (math.ceil(count * side / padded) for count, side, padded in sides)
    values: Array = cells.detach().float().cpu().numpy()[:rows, :columns]
    return values


def _resize(values: Array, image: Picture) -> Array:
    height, width = np.asarray(image).shape[:2]
    resized: Array = cv2.resize(np.asarray(values, np.float32), (width, height))
    return resized

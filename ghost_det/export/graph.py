"""A detector as one network: raw pixels in, boxes out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ghost_det.config.query import test_pipeline
from ghost_det.errors import UserError
from ghost_det.models.fuse import rewrite

from .heads import head_of, longer


class Canvas(NamedTuple):
    """How a config's images are brought to the network's input: a part of `Metadata`, which describes it."""

    height: int
    width: int
    scale: tuple[int, int]
    keep_ratio: bool
    size_divisor: int
    pad_value: tuple[int, int, int]
    clip_to_canvas: bool


class DetectorGraph(nn.Module):
    """A detector of mmdet, in evaluation mode, with everything before and behind it.

    Shape:
        Images ``(N, H, W, 3)``, uint8 in OpenCV's order, and ``sizes`` ``(N, 2)``, int64: height and width
        of each image on its canvas, without the padding; to boxes ``(N, K, 4)`` (x1 y1 x2 y2 in pixels),
        scores ``(N, K)`` and labels ``(N, K)``, best first; of what is missing, label -1 and score 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector
        self.find = head_of(detector)
        swapped, mean, std = normalisation(detector)
        self.swapped = swapped
        self.fill = float(detector.data_preprocessor.pad_value)
        self.register_buffer('mean', torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels."""
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        if self.swapped:
            x = x[:, [2, 1, 0]]
        x = (x - self.mean) / self.std
        # mmdet pads what it has normalised, with a value that may be none of a pixel's 256.
        down, across = (torch.arange(side, device=x.device) for side in x.shape[2:])
        inside = (down[:, None] < sizes[:, 0, None, None]) & (across < sizes[:, 1, None, None])
        x = torch.where(inside.unsqueeze(1), x, self.fill)
        maps = self.detector.extract_feat(x)
        boxes, scores, labels = self.find(maps, longer(*images.shape[1:3]), sizes)
        return boxes, scores, labels


def normalisation(detector: Any) -> tuple[bool, list[float], list[float]]:
    """Return what a detector's preprocessor does to pixels: whether it swaps BGR to RGB, mean, deviation."""
    before = getattr(detector, 'data_preprocessor', None)
    if before is None or not hasattr(before, '_channel_conversion'):
        raise UserError(
            f'{type(before).__name__}: no export for this data_preprocessor: DetDataPreprocessor has one'
        )
    mean, std = [0.0] * 3, [1.0] * 3
    if hasattr(before, 'mean'):
        mean, std = before.mean.flatten().tolist(), before.std.flatten().tolist()
    if len(mean) != 3 or len(std) != 3:
        raise UserError(f'data_preprocessor: expected mean and std of three channels, got {mean} and {std}')
    return bool(before._channel_conversion), mean, std


def canvas_of(cfg: Any, detector: Any, size: tuple[int, int] | None = None) -> Canvas:
    """Return the input that a config's own evaluation gives its network, or one of another ``size``.

    ``size`` is height and width. Sides are rounded up to multiples of what the preprocessor pads to.
    """
    pipeline = test_pipeline(cfg)
    resize: Any = next((step for step in pipeline if is_resize(step)), {})
    pad = next((step for step in pipeline if is_pad(step)), None)
    keep = bool(resize.get('keep_ratio', True))
    before = detector.data_preprocessor
    divisor = int(max(getattr(before, 'pad_size_divisor', 1), 1))
    if size is None:
        scale = resize.get('scale')
        if not isinstance(scale, list | tuple) or len(scale) != 2:
            raise UserError('the test pipeline has no Resize with a scale: name a --size HEIGHT WIDTH')
        scale = int(scale[0]), int(scale[1])
        width, height = (-(-side // divisor) * divisor for side in scale)
    else:
        scale = width, height = size[1], size[0]
        if min(size) < 1 or max(size) > 16384 or height % divisor or width % divisor:
            raise UserError(
                f"--size: expected multiples of {divisor}, to which the config's data_preprocessor pads, "
                f'got {height} {width}'
            )
    swapped, mean, std = normalisation(detector)
    fill = [float(before.pad_value) * s + m for m, s in zip(mean, std)]
    fill = fill[::-1] if swapped else fill
    if pad is not None:  # before the preprocessor gets the image
        value = pad.get('pad_val', 0)
        value = value.get('img', 0) if isinstance(value, dict) else value
        fill = list(value) if isinstance(value, Sequence) else [float(value)] * 3
    blue, green, red = (min(255, max(0, round(value))) for value in fill)
    return Canvas(height, width, scale, keep, divisor, (blue, green, red), pad is not None)


def is_resize(step: Any) -> bool:
    """Tell whether a step of a test pipeline scales images."""
    return step['type'] in ('Resize', 'FixScaleResize')


def is_pad(step: Any) -> bool:
    """Tell whether a step of a test pipeline pads images."""
    return bool(step['type'] == 'Pad')


def deployed(detector: nn.Module) -> nn.Module:
    """Return a copy of a detector in the form in which it is fastest: branches and norms folded."""
    return rewrite(copy.deepcopy(detector).cpu().float().eval())

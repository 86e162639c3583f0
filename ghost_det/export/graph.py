"""A detector as one network: raw pixels in, boxes out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models import DetDataPreprocessor
from torch import Tensor, nn

from ghost_det.config.query import test_pipeline
from ghost_det.errors import UserError
from ghost_det.models.fuse import rewrite

from .heads import find_head

RESIZES = ('Resize', 'FixScaleResize')
PAD = 'Pad'


class Canvas(NamedTuple):
    """How a config's images become the network's input; see `Metadata`."""

    height: int
    width: int
    scale: tuple[int, int]
    keep_ratio: bool
    size_divisor: int
    pad_value: tuple[int, int, int]
    clip_to_canvas: bool
    fill: tuple[float, ...]


class DetectorGraph(nn.Module):
    """A detector of mmdet, in evaluation mode, with its preprocessing and post-processing.

    Shape:
        Images ``(N, H, W, 3)``, uint8 in OpenCV's order, and ``sizes`` ``(N, 2)``, int64: height and width
        of each image on its canvas, without the padding; to boxes ``(N, K, 4)`` (x1 y1 x2 y2 in pixels),
        scores ``(N, K)`` and labels ``(N, K)``, best first; rows without a box have label -1 and score 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector
        self.find = find_head(detector)
        self.swapped, mean, std = normalisation(detector)
        self.fill = float(detector.data_preprocessor.pad_value)
        self.register_buffer('mean', torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).reshape(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Return images ``(N, 3, H, W)`` as mmdet's preprocessor makes them."""
        if self.swapped:
            images = torch.cat(images.chunk(3, 1)[::-1], 1)  # not flipped: engines of phones may lack that
        return (images - self.mean) / self.std

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels."""
        x = self.normalise(images.permute(0, 3, 1, 2).to(self.mean.dtype))
        # mmdet pads after the normalisation, with a value that may not be one of a pixel's 256.
        down, across = (torch.arange(side, device=x.device) for side in x.shape[2:])
        inside = (down[:, None] < sizes[:, 0, None, None]) & (across < sizes[:, 1, None, None])
        x = torch.where(inside.unsqueeze(1), x, self.fill)
        maps = self.detector.extract_feat(x)
        boxes, scores, labels = self.find(maps, torch.sym_max(*images.shape[1:3]), sizes)
        return boxes, scores, labels


def normalisation(detector: Any) -> tuple[bool, list[float], list[float]]:
    """Return whether a detector's preprocessor swaps BGR to RGB, and its mean and standard deviation."""
    before = getattr(detector, 'data_preprocessor', None)
    if not isinstance(before, DetDataPreprocessor):
        name = type(before).__name__
        raise UserError(f'data_preprocessor {name}: only DetDataPreprocessor can be exported')
    mean, std = getattr(before, 'mean', torch.zeros(3)), getattr(before, 'std', torch.ones(3))
    return bool(before._channel_conversion), mean.flatten().tolist(), std.flatten().tolist()


def canvas_of(cfg: Any, detector: Any, size: tuple[int, int] | None = None) -> Canvas:
    """Return the network's input in a config's own evaluation, or one of ``size`` (height and width)."""
    pipeline = test_pipeline(cfg)
    resize: Any = next((step for step in pipeline if step['type'] in RESIZES), {})
    pad = next((step for step in pipeline if step['type'] == PAD), None)
    before = detector.data_preprocessor
    divisor = int(max(getattr(before, 'pad_size_divisor', 1), 1))
    scale = resize.get('scale') if size is None else size[::-1]
    if not isinstance(scale, list | tuple) or len(scale) != 2:
        raise UserError('the test pipeline has no Resize with a scale: set --size HEIGHT WIDTH')
    scale = int(scale[0]), int(scale[1])
    width, height = (-(-side // divisor) * divisor for side in scale)
    if size not in (None, (height, width)):
        raise UserError(f'--size: expected multiples of {divisor}, to which the config pads, got {size}')
    swapped, mean, std = normalisation(detector)
    fill = tuple(float(before.pad_value) * s + m for m, s in zip(mean, std))
    fill = fill[::-1] if swapped else fill
    if pad is not None:  # before the preprocessor gets the image
        value = pad.get('pad_val', 0)
        value = value.get('img', 0) if isinstance(value, dict) else value
        fill = tuple(value) if isinstance(value, Sequence) else (float(value),) * 3
    blue, green, red = (min(255, max(0, round(value))) for value in fill)
    keep_ratio = bool(resize.get('keep_ratio', True))
    return Canvas(height, width, scale, keep_ratio, divisor, (blue, green, red), pad is not None, fill)


def deployed(detector: nn.Module) -> nn.Module:
    """Return a copy of a detector with branches and norms folded, its fastest form."""
    return rewrite(copy.deepcopy(detector).cpu().float().eval())

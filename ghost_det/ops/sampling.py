"""Weighted sums of a map's vectors: what deformable convolution, CARAFE and region pooling have in common.

`torch.nn.functional.embedding_bag` does the work, with the channels of a cell side by side. On a CPU this is
about 1.5 (forward) and 3 times (backward) as fast as torchvision's ``deform_conv2d``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def corners(y: Tensor, x: Tensor, height: int, width: int, extend: bool = False) -> tuple[Tensor, Tensor]:
    """Cells around points, and their weights in bilinear interpolation.

    Outside, a map is zero; with ``extend`` it goes on for one cell as it ends, as in RoIAlign.

    Args:
        y: Rows of the points, in cells, of any shape; a whole number is the middle of a cell.
        x: Columns of the points.
        height: Of the map.
        width: Of the map.
        extend: Whether the map extends by a cell.

    Returns:
        Cells, ``row * width + column``, and weights, both ``(..., 4)``. A cell outside counts 0.
    """
    # An offset may be infinite: that, too, is outside, where infinity less infinity would be no number.
    y, x = y.clamp(-2, height + 1), x.clamp(-2, width + 1)
    top, left = y.floor(), x.floor()
    down, right = y - top, x - left
    rows = torch.stack((top, top, top + 1, top + 1), -1)
    columns = torch.stack((left, left + 1, left, left + 1), -1)
    weights = torch.stack(
        ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right), -1
    )
    if extend:
        counts = ((y >= -1) & (y <= height) & (x >= -1) & (x <= width))[..., None]
    else:
        # A point just one cell away has no gradient in mmcv; offsets that start as zeros make many of these.
        near = ((y > -1) & (x > -1))[..., None]
        counts = near & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # Integers first: of a NaN, clamp makes no cell.
    cells = rows.long().clamp(0, height - 1) * width + columns.long().clamp(0, width - 1)
    return cells, weights * counts


def vectors(features: Tensor, groups: int = 1) -> Tensor:
    """Map ``(b, c, h, w)`` as ``(b * h * w * groups, c / groups)``."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1] // groups)


def gather(features: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Sum ``n`` weighted cells for each group of channels, at each place of a grid.

    Args:
        features: Map ``(b, c, h, w)``.
        cells: ``(b, ..., groups, n)``, each ``row * w + column``.
        weights: Of the same shape.

    Returns:
        ``(b, ..., c)``.
    """
    batch, channels, height, width = features.shape
    groups, terms = cells.shape[-2:]
    image = torch.arange(batch, device=cells.device).view(-1, *[1] * (cells.dim() - 1))
    rows = (image * (height * width) + cells) * groups + torch.arange(groups, device=cells.device)[:, None]
    sums = F.embedding_bag(
        rows.view(-1, terms),
        vectors(features, groups),
        mode='sum',
        per_sample_weights=weights.reshape(-1, terms),
    )
    return sums.view(*cells.shape[:-2], channels)

"""Pooling of regions of interest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  # loads torch.ops.torchvision
from torch import Tensor

from .sampling import add_gradients, corners, vectors, wide


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average each bin of each RoI into ``output`` ``(r, c, h, w)`` (He et al., Mask R-CNN, 2017).

    ``rois`` ``(r, 5)`` are ``(image, x1, y1, x2, y2)`` in pixels of the image.
    """
    _check_roi_align(rois, aligned, pool_mode)
    features = wide(input)
    size = (aligned_height, aligned_width)
    output.copy_(
        torch.ops.torchvision.roi_align(
            features, rois.to(features.dtype), spatial_scale, *size, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of `roi_align_forward` to ``grad_input`` ``(b, c, H, W)``."""
    _check_roi_align(rois, aligned, pool_mode)
    grad = wide(grad_output)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad,
        rois.to(grad.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )


def _check_roi_align(rois: Tensor, aligned: bool, pool_mode: int) -> None:
    if pool_mode == 0:
        raise NotImplementedError("RoIAlign: pool_mode='max' has no stand-in; expected 'avg'")
    # Only on the CPU, as in C++: a GPU would have to wait for the result.
    if aligned and rois.device.type == 'cpu':
        bad = rois[(rois[:, 3:] < rois[:, 1:3]).any(1)].tolist()
        if bad:
            raise ValueError(f'RoIAlign: RoI (image, x1, y1, x2, y2) {bad[0]} has a negative side.')


def _samples(
    rois: Tensor, size: Sequence[int], scale: float, ratio: int, shift: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, x and RoI of each point ``(n,)`` that is sampled, and the points per bin of each RoI.

    ``ratio`` samples lie along either side of a bin, for 0 about one in a cell; ``shift`` ``(r, 2, *size)``
    moves each bin by x and y, as a part of the RoI's sides.
    """
    start, end = (rois[:, 1:] * scale - 0.5).chunk(2, 1)
    side = end - start
    step = side / side.new_tensor([size[1], size[0]])
    # In float32, as in C++: a bin of 2 cells, in float64 often a bit more, would get 3 samples.
    grid = torch.full_like(step, ratio).long() if ratio > 0 else step.float().ceil().clamp(min=0).long()
    counts = grid.prod(1)
    points = counts * (size[0] * size[1])
    roi = torch.arange(len(rois), device=rois.device).repeat_interleave(points)
    at = torch.arange(len(roi), device=rois.device) - (points.cumsum(0) - points)[roi]
    place, sample = at // counts[roi], at % counts[roi]
    row, column = place // size[1], place % size[1]
    across = grid[roi, 0]
    part = torch.stack((sample % across, sample // across), 1).to(step.dtype)
    origin, step = start[roi], step[roi]
    if shift is not None:
        origin = origin + side[roi] * shift[roi, :, row, column]
    x, y = (origin + torch.stack((column, row), 1) * step + (part + 0.5) * step / grid[roi]).unbind(1)
    return y, x, roi, counts


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fill ``output`` by RoIAlign with moved bins (Dai et al., Deformable ConvNets, 2017, section 2.2).

    ``offset`` ``(r, 2, h, w)``, or empty, times ``gamma`` moves each bin by a part of the RoI's sides.
    """
    settings = (rois, output.shape[2:], spatial_scale, sampling_ratio, gamma)
    output.copy_(_deform_roi_pool(*settings, wide(input), wide(offset)))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradient of `deform_roi_pool_forward`, which is 0 beyond the map, where C++ extrapolates."""
    size = (pooled_height, pooled_width)
    forward = partial(_deform_roi_pool, rois, size, spatial_scale, sampling_ratio, gamma)
    add_gradients(forward, (input, offset), grad_output, (grad_input, grad_offset))


def _deform_roi_pool(
    rois: Tensor, size: Sequence[int], scale: float, ratio: int, gamma: float, input: Tensor, offset: Tensor
) -> Tensor:
    _, channels, height, width = input.shape
    rois = rois.to(input.dtype)
    shift = offset * gamma if offset.numel() else None
    y, x, roi, counts = _samples(rois, size, scale, ratio, shift)
    cells, weights = corners(y, x, height, width, extend=True)
    cells = cells + (rois[:, 0].long() * (height * width))[roi, None]
    weights = weights / counts[roi, None]
    terms = counts.repeat_interleave(size[0] * size[1]) * cells.shape[1]
    bins = F.embedding_bag(
        cells.view(-1),
        vectors(input),
        terms.cumsum(0) - terms,
        mode='sum',
        per_sample_weights=weights.view(-1),
    )
    return bins.view(len(rois), *size, channels).permute(0, 3, 1, 2)

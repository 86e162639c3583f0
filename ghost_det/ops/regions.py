"""Pooling of regions of interest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  # loads torch.ops.torchvision
from torch import Tensor

from .sampling import add_gradients, corners, vectors, wide

# Row and column of no sample: more than a cell beyond every map, where nothing has a weight.
_OUTSIDE = -2


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

    ``rois`` ``(r, 5)`` are ``(image, x1, y1, x2, y2)`` in pixels of the image. With ``pool_mode`` 0, a bin is
    its greatest sample, whose place goes to ``argmax_y`` and ``argmax_x``; an empty bin is 0.
    """
    _check_roi_align(rois, aligned)
    features = wide(input)
    rois = rois.to(features.dtype)
    size = (aligned_height, aligned_width)
    if pool_mode == 0:
        _max_roi_align(features, rois, (output, argmax_y, argmax_x), spatial_scale, sampling_ratio, aligned)
    else:
        output.copy_(
            torch.ops.torchvision.roi_align(features, rois, spatial_scale, *size, sampling_ratio, aligned)
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
    _check_roi_align(rois, aligned)
    grad = wide(grad_output)
    if pool_mode == 0:
        _, channels, height, width = grad_input.shape
        cells, weights = corners(wide(argmax_y), wide(argmax_x), height, width, extend=True)
        planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
        cells += planes[:, :, None, None, None] * (height * width)
        total = torch.zeros_like(grad_input, dtype=grad.dtype).view(-1)
        total.index_add_(0, cells.view(-1), (grad[..., None] * weights).view(-1))
        grad_input += total.view_as(grad_input)
    else:
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


def _check_roi_align(rois: Tensor, aligned: bool) -> None:
    # Only on the CPU, as in C++: a GPU would have to wait for the result.
    if aligned and rois.device.type == 'cpu':
        bad = rois[(rois[:, 3:] < rois[:, 1:3]).any(1)].tolist()
        if bad:
            raise ValueError(f'RoIAlign: RoI (image, x1, y1, x2, y2) {bad[0]} has a negative side.')


def _max_roi_align(
    features: Tensor,
    rois: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    scale: float,
    ratio: int,
    aligned: bool,
) -> None:
    height, width = features.shape[2:]
    size = outputs[0].shape[2:]
    bins = size[0] * size[1]
    y, x, roi, counts = _samples(rois, size, scale, ratio, aligned)
    cells, weights = corners(y, x, height, width, extend=True)
    cells += (rois[:, 0].long() * (height * width))[roi, None]
    table = vectors(features)
    for buffer, empty in zip(outputs, (0, _OUTSIDE, _OUTSIDE)):
        buffer.fill_(empty)
    ends = (counts * bins).cumsum(0).tolist()
    # One RoI at a time: all samples at once, of all channels, can take gigabytes.
    for index, (start, end) in enumerate(zip([0, *ends], ends)):
        if start < end:
            here = slice(start, end)
            values = F.embedding_bag(cells[here], table, mode='sum', per_sample_weights=weights[here])
            best, at = values.view(bins, -1, values.shape[1]).max(1)
            places = (each[here].view(bins, -1).gather(1, at) for each in (y, x))
            for buffer, found in zip(outputs, (best, *places)):
                buffer[index] = found.t().reshape(-1, *size)


def _samples(
    rois: Tensor, size: Sequence[int], scale: float, ratio: int, aligned: bool, shift: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, x and RoI of each point ``(n,)`` that RoIAlign samples, and the points per bin of each RoI.

    ``ratio`` samples lie along either side of a bin, for 0 about one in a cell; ``shift`` ``(r, 2, *size)``
    moves each bin by x and y, as a part of the RoI's sides.
    """
    start, end = (rois[:, 1:] * scale - 0.5 * aligned).chunk(2, 1)
    side = end - start
    if not aligned:
        side = side.clamp(min=1)
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
    # Rounded as in C++: of a constant map, the place of the maximum hangs on it.
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
    y, x, roi, counts = _samples(rois, size, scale, ratio, True, shift)
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


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` with the maximum of each bin, ``argmax`` with its cell or -1 (Fast R-CNN, 2015)."""
    # Not torchvision's roi_pool, which rounds a RoI to whole cells.
    height, width = input.shape[2:]
    boxes = wide(rois)
    start, end = boxes[:, 1:3] * spatial_scale, (boxes[:, 3:] + 1) * spatial_scale
    x_low, x_high = _bins(start[:, 0], end[:, 0], pooled_width, width)
    y_low, y_high = _bins(start[:, 1], end[:, 1], pooled_height, height)
    planes = input.flatten(2)
    for roi, image in enumerate(rois[:, 0].long().tolist()):
        y, x = _cells(y_low[roi], y_high[roi], height), _cells(x_low[roi], x_high[roi], width)
        cells = (y[:, None, :, None] * width + x[None, :, None, :]).flatten(2)
        best, at = planes[image][:, cells].max(-1)
        where = cells.expand(len(at), -1, -1, -1).gather(-1, at[..., None])[..., 0]
        empty = (y_high <= y_low)[roi, :, None] | (x_high <= x_low)[roi]
        output[roi] = best.masked_fill(empty, 0)
        argmax[roi] = where.masked_fill(empty, -1)


def _bins(start: Tensor, end: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """Return the first cell of each bin along one axis, and the first after its last, ``(r, count)``."""
    step = (end - start)[:, None] / count
    edges = torch.arange(count, device=start.device)
    low = (edges * step + start[:, None]).floor().clamp(0, limit).long()
    high = ((edges + 1) * step + start[:, None]).ceil().clamp(0, limit).long()
    return low, torch.where(step > 0, high, low)


def _cells(low: Tensor, high: Tensor, limit: int) -> Tensor:
    """Return the cells of bins, ``(n, longest)``; shorter ones repeat their last, which keeps the maximum."""
    longest = max(int((high - low).max()), 1)
    cells = low[:, None] + torch.arange(longest, device=low.device)
    return cells.minimum(high[:, None] - 1).clamp(0, limit - 1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of `roi_pool_forward` to ``grad_input`` ``(b, c, H, W)``, which is contiguous."""
    channels, height, width = grad_input.shape[1:]
    planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    cells = planes[:, :, None, None] * (height * width) + argmax
    found = argmax >= 0
    grad_input.view(-1).index_add_(0, cells[found], grad_output[found])

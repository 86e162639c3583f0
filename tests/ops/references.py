"""Loops that define the operators that several files test, and what these files share."""

import math

import pytest
import torch

from ghost_det import ops

MODE = ops.ensure_ops()

import mmcv.ops as mmops  # noqa: E402, F401

stand_ins = pytest.mark.skipif(MODE != 'stand-in', reason='this mmcv has compiled operators')


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def same(op, reference, *tensors):
    """Compare output and gradients of both."""
    results = []
    for function in (op, reference):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        output = function(*leaves)
        results.append((output, *torch.autograd.grad(output, leaves, torch.ones_like(output).cumsum(-1))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    return results[0][0]


def bilinear_reference(plane, y, x):
    """Value of a ``(c, h, w)`` map at a point; beyond one cell outside it is zero."""
    height, width = plane.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(len(plane))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    return (
        plane[:, top, left] * (1 - y + top) * (1 - x + left)
        + plane[:, top, right] * (1 - y + top) * (x - left)
        + plane[:, down, left] * (y - top) * (1 - x + left)
        + plane[:, down, right] * (y - top) * (x - left)
    )


def roi_align_reference(features, rois, size, scale, ratio, aligned):
    out = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (corner * scale - 0.5 * aligned for corner in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        bin_h, bin_w = height / size[0], width / size[1]
        grid_h, grid_w = ratio or math.ceil(bin_h), ratio or math.ceil(bin_w)
        for row in range(size[0]):
            for col in range(size[1]):
                total = features.new_zeros(features.shape[1])
                for i in range(grid_h):
                    for j in range(grid_w):
                        y = y1 + bin_h * (row + (i + 0.5) / grid_h)
                        x = x1 + bin_w * (col + (j + 0.5) / grid_w)
                        total = total + bilinear_reference(features[int(image)], y, x)
                out.append(total / max(grid_h * grid_w, 1))
    return torch.stack(out).view(len(rois), *size, -1).permute(0, 3, 1, 2)


def roi_pool_reference(features, rois, size, scale):
    height, width = features.shape[2:]

    def cells(start, end, count, index, limit):
        step = (end - start) / count
        low, high = math.floor(start + index * step), math.ceil(start + (index + 1) * step)
        return range(min(max(low, 0), limit), min(max(high, 0), limit) if step > 0 else 0)

    out = []
    for image, x1, y1, x2, y2 in rois.tolist():
        for plane in features[int(image)]:
            for row in range(size[0]):
                for col in range(size[1]):
                    best = None
                    for y in cells(y1 * scale, (y2 + 1) * scale, size[0], row, height):
                        for x in cells(x1 * scale, (x2 + 1) * scale, size[1], col, width):
                            if best is None or plane[y, x] > best:
                                best = plane[y, x]
                    out.append(plane.new_zeros(()) if best is None else best)
    return torch.stack(out).view(len(rois), -1, *size)


# On a (2, 3, 7, 9) map at scale 1/4: inside, hanging over each side, beyond it, thin, of no size, whole.
ROIS = torch.tensor(
    [
        [0, 3.3, 5.1, 21.7, 17.2],
        [1, -9.5, 2.2, 8.4, 40.0],
        [0, 25.0, -7.3, 60.0, 11.9],
        [1, 80.0, 80.0, 96.0, 90.0],
        [0, 10.2, 4.4, 10.9, 25.5],
        [1, 12.0, 12.0, 12.0, 12.0],
        [1, 0.0, 0.0, 36.0, 28.0],
    ],
    dtype=torch.float64,
)


def sample_reference(plane, y, x):
    """Value of a ``(c, h, w)`` map at a point; it is zero outside, and has no slope a whole cell outside."""
    height, width = plane.shape[1:]
    total = plane.new_zeros(len(plane))
    if y <= -1 or x <= -1:
        return total
    top, left = int(y.floor()), int(x.floor())
    for row, by_row in ((top, 1 - y + top), (top + 1, y - top)):
        for column, by_column in ((left, 1 - x + left), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                total = total + plane[:, row, column] * by_row * by_column
    return total

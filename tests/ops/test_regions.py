"""Pooling of regions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from .references import (
    ROIS,
    bilinear_reference,
    mmops,
    randn,
    roi_align_reference,
    roi_pool_reference,
    same,
    stand_ins,
)

pytestmark = stand_ins


@pytest.mark.parametrize(('aligned', 'ratio'), [(True, 0), (False, 2), (False, 0)])
def test_roi_align(aligned, ratio):
    layer = mmops.RoIAlign((2, 3), 0.25, ratio, aligned=aligned)
    same(
        lambda x: layer(x, ROIS),
        lambda x: roi_align_reference(x, ROIS, (2, 3), 0.25, ratio, aligned),
        torch.randn(2, 3, 7, 9, dtype=torch.float64),
    )
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: layer(x, ROIS), features, fast_mode=True)


def test_roi_pool():
    rois = torch.cat((ROIS, torch.tensor([[0, 20.0, 4.0, 12.0, 16.0]])))
    layer = mmops.RoIPool((2, 3), 0.25)
    features = torch.randperm(2 * 3 * 7 * 9).view(2, 3, 7, 9).double() - 50
    output = same(lambda x: layer(x, rois), lambda x: roi_pool_reference(x, rois, (2, 3), 0.25), features)
    assert (output[-1] == 0).all() and (output[0] != 0).all()
    assert gradcheck(lambda x: layer(x, rois), features.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_regions_of_other_dtypes_and_memory_formats(dtype):
    features = torch.randn(2, 3, 7, 9).to(dtype)
    rois = ROIS.round().to(dtype)  # exact in every dtype
    tolerance = {'atol': 4 * torch.finfo(dtype).eps, 'rtol': 4 * torch.finfo(dtype).eps}
    for op in (mmops.RoIAlign((2, 3), 0.25, 2), mmops.RoIPool((2, 3), 0.25)):
        gradients = []
        for x in (features.double(), features, features.to(memory_format=torch.channels_last)):
            leaf = x.detach().clone().requires_grad_()
            output = op(leaf, rois.to(x.dtype))
            output.sum().backward()
            gradients.append((output.detach(), leaf.grad))
        for output, grad in gradients[1:]:
            assert output.dtype == grad.dtype == dtype
            torch.testing.assert_close(output.double(), gradients[0][0], **tolerance)
            torch.testing.assert_close(grad.double(), gradients[0][1], **tolerance)


@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_refuses_negative_sides(pool_mode):
    with pytest.raises(ValueError, match=r'\[0.0, 3.0, 1.0, 2.0, 4.0\] has a negative side'):
        mmops.RoIAlign(2, pool_mode=pool_mode)(
            torch.randn(1, 1, 4, 4), torch.tensor([[0, 0, 0, 2, 2], [0, 3, 1, 2, 4.0]])
        )


def deform_roi_pool_reference(features, offset, rois, size, scale, ratio, gamma):
    out = []
    for (image, *corners), moves in zip(rois.tolist(), offset, strict=True):
        x1, y1, x2, y2 = (corner * scale - 0.5 for corner in corners)
        bin_w, bin_h = (x2 - x1) / size[1], (y2 - y1) / size[0]
        grid_h, grid_w = ratio or math.ceil(bin_h), ratio or math.ceil(bin_w)
        for row, col in itertools.product(range(size[0]), range(size[1])):
            total = features.new_zeros(features.shape[1])
            for i, j in itertools.product(range(grid_h), range(grid_w)):
                y = y1 + bin_h * (row + (i + 0.5) / grid_h) + gamma * (y2 - y1) * moves[1, row, col]
                x = x1 + bin_w * (col + (j + 0.5) / grid_w) + gamma * (x2 - x1) * moves[0, row, col]
                total = total + bilinear_reference(features[int(image)], y, x)
            out.append(total / max(grid_h * grid_w, 1))
    return torch.stack(out).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize('ratio', [0, 2])
def test_deform_roi_pool(ratio):
    features, offset = randn(2, 3, 7, 9), randn(len(ROIS), 2, 2, 3)
    layer = mmops.DeformRoIPool((2, 3), 0.25, ratio, gamma=0.3)
    same(
        lambda x, moves: layer(x, ROIS, moves),
        lambda x, moves: deform_roi_pool_reference(x, moves, ROIS, (2, 3), 0.25, ratio, 0.3),
        features,
        offset,
    )
    still = same(
        lambda x: layer(x, ROIS), lambda x: roi_align_reference(x, ROIS, (2, 3), 0.25, ratio, True), features
    )
    torch.testing.assert_close(layer(features, ROIS, 0 * offset), still)


def test_deform_roi_pool_counts_cells_in_float32():
    rois = torch.tensor([[0, 0.4, 0.4, 0.4 + 6 * (1 + 1e-12), 0.4 + 4]], dtype=torch.float64)
    features = randn(1, 1, 8, 8)
    rounded = roi_align_reference(features, rois.round(decimals=6), (2, 3), 1, 0, True)
    torch.testing.assert_close(mmops.DeformRoIPool((2, 3))(features, rois), rounded)


def max_roi_align_reference(features, rois, size, scale, ratio, aligned):
    out = []
    for roi in rois:
        side = (roi[3:] - roi[1:3]) * scale
        bins = (side if aligned else side.clamp(min=1)) / side.new_tensor([size[1], size[0]])
        grid = [ratio or math.ceil(step) for step in bins]
        if not grid[0] * grid[1]:
            out.append(features.new_zeros(features.shape[1], *size))
            continue
        # A bin's samples are bins of their own in a finer grid.
        fine = (size[0] * grid[1], size[1] * grid[0])
        samples = roi_align_reference(features, roi[None], fine, scale, 1, aligned)[0]
        out.append(F.max_pool2d(samples, (grid[1], grid[0])))
    return torch.stack(out)


@pytest.mark.parametrize(('aligned', 'ratio'), [(True, 0), (False, 2), (False, 0)])
def test_roi_align_by_the_maximum(aligned, ratio):
    layer = mmops.RoIAlign((2, 3), 0.25, ratio, 'max', aligned)
    output = same(
        lambda x: layer(x, ROIS),
        lambda x: max_roi_align_reference(x, ROIS, (2, 3), 0.25, ratio, aligned),
        randn(2, 3, 7, 9) - 1,
    )
    assert (output[3] == 0).all() and (output[0] < 0).any()


@pytest.mark.parametrize(
    'layer',
    [
        mmops.RoIAlign((2, 3)),
        mmops.RoIAlign((2, 3), pool_mode='max'),
        mmops.RoIPool((2, 3)),
        mmops.DeformRoIPool((2, 3)),
    ],
)
def test_no_regions(layer):
    features = torch.randn(2, 3, 7, 9, requires_grad=True)
    output = layer(
        features, torch.zeros(0, 5), *[torch.zeros(0, 2, 2, 3)] * isinstance(layer, mmops.DeformRoIPool)
    )
    assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert features.grad.shape == features.shape and not features.grad.any()

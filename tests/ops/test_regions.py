"""Pooling of regions, compared with torchvision's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align, roi_pool

from .references import ROIS, mmops, randn, same, stand_ins

pytestmark = stand_ins

CASES = [(True, 0), (False, 2), (False, 0)]


@pytest.mark.parametrize(('aligned', 'ratio'), CASES)
def test_roi_align(aligned, ratio):
    layer = mmops.RoIAlign((2, 3), 0.25, ratio, aligned=aligned)
    same(
        lambda x: layer(x, ROIS),
        lambda x: roi_align(x, ROIS, (2, 3), 0.25, ratio, aligned),
        randn(2, 3, 7, 9),
    )


def max_roi_align(features, rois, size, scale, ratio, aligned):
    """A bin's samples are bins of their own in a finer grid."""
    out = []
    for roi in rois:
        side = (roi[3:] - roi[1:3]) * scale
        bins = (side if aligned else side.clamp(min=1)) / side.new_tensor([size[1], size[0]])
        grid = [ratio or math.ceil(step) for step in bins]
        if not grid[0] * grid[1]:
            out.append(features.new_zeros(features.shape[1], *size))
            continue
        fine = (size[0] * grid[1], size[1] * grid[0])
        samples = roi_align(features, roi[None], fine, scale, 1, aligned)[0]
        out.append(F.max_pool2d(samples, (grid[1], grid[0])))
    return torch.stack(out)


@pytest.mark.parametrize(('aligned', 'ratio'), CASES)
def test_roi_align_by_the_maximum(aligned, ratio):
    layer = mmops.RoIAlign((2, 3), 0.25, ratio, 'max', aligned)
    output = same(
        lambda x: layer(x, ROIS),
        lambda x: max_roi_align(x, ROIS, (2, 3), 0.25, ratio, aligned),
        randn(2, 3, 7, 9) - 1,
    )
    assert (output[3] == 0).all() and (output[0] < 0).any()


@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_refuses_negative_sides(pool_mode):
    rois = torch.tensor([[0, 0, 0, 2, 2], [0, 3, 1, 2, 4.0]])
    with pytest.raises(ValueError, match=r'\[0.0, 3.0, 1.0, 2.0, 4.0\] has a negative side'):
        mmops.RoIAlign(2, pool_mode=pool_mode)(torch.randn(1, 1, 4, 4), rois)


def test_roi_pool():
    features = torch.randperm(2 * 3 * 7 * 9).view(2, 3, 7, 9).double() - 50
    rois = torch.tensor([[0, 1, 1, 6, 4], [1, -2, 0, 3, 9], [1, 4, 4, 4, 4], [0, 20, 20, 24, 22.0]]).double()
    output = same(
        lambda x: mmops.roi_pool(x, rois, (2, 3), 1), lambda x: roi_pool(x, rois, (2, 3), 1), features
    )
    assert (output[3] == 0).all()
    # The RoI of cells 1 to 5.25 and 1 to 3.25, which torchvision would round.
    bins = mmops.RoIPool((2, 2), 0.25)(features, torch.tensor([[0, 4.0, 4.0, 20.0, 12.0]]).double())
    expected = [
        [features[0, 0, y, x].max() for x in (slice(1, 4), slice(3, 6))] for y in (slice(1, 3), slice(2, 4))
    ]
    assert bins[0, 0].tolist() == torch.tensor(expected).tolist()
    turned = torch.tensor([[0, 20.0, 4.0, 12.0, 16.0]]).double()
    assert not mmops.RoIPool((2, 3), 0.25)(features, turned).any()


@pytest.mark.parametrize('ratio', [0, 2])
def test_deform_roi_pool(ratio):
    layer = mmops.DeformRoIPool((2, 3), 0.25, ratio, gamma=0.3)
    moves = randn(len(ROIS), 2)

    def op(x, moves):
        return layer(x, ROIS, moves[:, :, None, None].expand(-1, -1, 2, 3).contiguous())

    def reference(x, moves):  # RoIs that are moved as a whole
        shift = 0.3 * moves.detach() * (ROIS[:, 3:] - ROIS[:, 1:3])
        moved = ROIS + torch.cat((torch.zeros(len(ROIS), 1), shift, shift), 1)
        return roi_align(x, moved, (2, 3), 0.25, ratio, True) + 0 * moves.sum()

    features = randn(2, 3, 7, 9)
    torch.testing.assert_close(op(features, moves), reference(features, moves))
    same(lambda x: op(x, moves), lambda x: reference(x, moves), features)
    same(lambda x: layer(x, ROIS), lambda x: roi_align(x, ROIS, (2, 3), 0.25, ratio, True), features)
    inside = ROIS[:1]
    offset = 0.1 * randn(1, 2, 2, 3)
    assert torch.autograd.gradcheck(
        lambda moves: layer(features, inside, moves), offset.requires_grad_(), fast_mode=True
    )


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

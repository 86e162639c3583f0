"""Pooling of regions, compared with torchvision's."""

import pytest
import torch
from torchvision.ops import roi_align

from .references import ROIS, mmops, randn, same


@pytest.mark.parametrize(('aligned', 'ratio'), [(True, 0), (False, 2), (False, 0)])
def test_roi_align(aligned, ratio):
    layer = mmops.RoIAlign((2, 3), 0.25, ratio, aligned=aligned)
    same(
        lambda x: layer(x, ROIS),
        lambda x: roi_align(x, ROIS, (2, 3), 0.25, ratio, aligned),
        randn(2, 3, 7, 9),
    )


def test_roi_align_refuses_negative_sides_and_the_maximum():
    rois = torch.tensor([[0, 0, 0, 2, 2], [0, 3, 1, 2, 4.0]])
    with pytest.raises(ValueError, match=r'\[0.0, 3.0, 1.0, 2.0, 4.0\] has a negative side'):
        mmops.RoIAlign(2)(torch.randn(1, 1, 4, 4), rois)
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        mmops.RoIAlign(2, pool_mode='max')(torch.randn(1, 1, 4, 4), rois)


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


@pytest.mark.parametrize('layer', [mmops.RoIAlign((2, 3)), mmops.DeformRoIPool((2, 3))])
def test_no_regions(layer):
    features = torch.randn(2, 3, 7, 9, requires_grad=True)
    moves = [torch.zeros(0, 2, 2, 3)] * isinstance(layer, mmops.DeformRoIPool)
    output = layer(features, torch.zeros(0, 5), *moves)
    assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert features.grad.shape == features.shape and not features.grad.any()

"""CARAFE."""

import pytest
import torch
import torch.nn.functional as F

from .references import mmops, randn, same


@pytest.mark.parametrize(('kernel', 'groups', 'scale'), [(3, 1, 2), (5, 2, 1), (1, 4, 3)])
def test_carafe(kernel, groups, scale):
    features, masks = randn(2, 4, 3, 2), randn(2, groups * kernel**2, 3 * scale, 2 * scale)

    def reference(features, masks):
        patches = F.unfold(features, kernel, padding=kernel // 2).view(2, 4 * kernel**2, 3, 2)
        patches = patches.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        size = (2, groups, -1, kernel**2, *masks.shape[2:])
        return (patches.view(size) * masks.view(2, groups, 1, *size[3:])).sum(3).flatten(1, 2)

    output = same(mmops.CARAFE(kernel, groups, scale), reference, features, masks)
    assert mmops.CARAFENaive(kernel, groups, scale)(features, masks).equal(output)
    assert output.dtype == torch.float64

"""CARAFE."""

import itertools

import pytest
import torch

from .references import mmops, randn, same, stand_ins

pytestmark = stand_ins


def carafe_reference(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    weights = masks.view(batch, groups, kernel, kernel, height * scale, width * scale)
    out = []
    for image, channel in itertools.product(range(batch), range(channels)):
        group = channel * groups // channels
        for row, col in itertools.product(range(height * scale), range(width * scale)):
            total = 0
            for i, j in itertools.product(range(kernel), range(kernel)):
                y, x = row // scale + i - kernel // 2, col // scale + j - kernel // 2
                if 0 <= y < height and 0 <= x < width:
                    total = total + features[image, channel, y, x] * weights[image, group, i, j, row, col]
            out.append(total)
    return torch.stack(out).view(batch, channels, height * scale, width * scale)


@pytest.mark.parametrize(('kernel', 'groups', 'scale'), [(3, 1, 2), (5, 2, 1), (1, 4, 3)])
def test_carafe(kernel, groups, scale):
    features, masks = randn(2, 4, 3, 2), randn(2, groups * kernel**2, 3 * scale, 2 * scale)

    def reference(features, masks):
        return carafe_reference(features, masks, kernel, groups, scale)

    output = same(mmops.CARAFE(kernel, groups, scale), reference, features, masks)
    assert mmops.CARAFENaive(kernel, groups, scale)(features, masks).equal(output)

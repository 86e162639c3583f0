"""Multi-scale deformable attention."""

import itertools

import torch

from .references import mmops, randn, same, sample_reference, stand_ins

pytestmark = stand_ins


MSDeformAttn = mmops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply


def test_multi_scale_deformable_attention():
    shapes = torch.tensor([[3, 4], [2, 2]])
    starts = torch.tensor([0, 12])
    value, weights = randn(2, 16, 2, 3), randn(2, 3, 2, 2, 2)
    places = torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2

    def reference(value, places, weights):
        out = []
        for image, query, head in itertools.product(range(2), range(3), range(2)):
            total = 0
            for level, point in itertools.product(range(2), range(2)):
                (height, width), start = shapes[level].tolist(), starts[level]
                plane = value[image, start : start + height * width, head].t().view(3, height, width)
                x, y = places[image, query, head, level, point]
                sample = sample_reference(plane, y * height - 0.5, x * width - 0.5)
                total = total + sample * weights[image, query, head, level, point]
            out.append(total)
        return torch.stack(out).view(2, 3, 6)

    same(lambda v, p, w: MSDeformAttn(v, shapes, starts, p, w, 64), reference, value, places, weights)

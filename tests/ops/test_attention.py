"""Multi-scale deformable attention."""

import torch
import torch.nn.functional as F

from .references import mmops, randn, same


def test_multi_scale_deformable_attention():
    shapes = torch.tensor([[3, 4], [2, 2]])
    value, weights = randn(2, 16, 2, 3), randn(2, 3, 2, 2, 2)
    places = torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2

    def reference(value, places, weights):
        total = 0
        for level, part in enumerate(value.split([12, 4], 1)):
            maps = part.permute(0, 2, 3, 1).reshape(4, 3, *shapes[level].tolist())
            grid = 2 * places[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
            samples = F.grid_sample(maps, grid, align_corners=False).view(2, 2, 3, 3, 2)
            total = total + torch.einsum('bhcqp,bqhp->bqhc', samples, weights[:, :, :, level])
        return total.flatten(2)

    apply = mmops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
    starts = torch.tensor([0, 12])
    same(lambda v, p, w: apply(v, shapes, starts, p, w, 64), reference, value, places, weights)

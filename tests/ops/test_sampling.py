"""Operators that sample a map, in other dtypes and memory formats."""

import pytest
import torch

from .references import ROIS, mmops

MSDeformAttn = mmops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply


@pytest.mark.parametrize(
    ('dtype', 'layout'),
    [
        (torch.float16, torch.channels_last),
        (torch.bfloat16, torch.contiguous_format),
        (torch.float32, torch.channels_last),
    ],
)
def test_other_dtypes_and_memory_formats(dtype, layout):
    x = torch.randn(2, 4, 5, 6).to(dtype)
    kernel, offset, mask = torch.randn(4, 4, 3, 3), torch.randn(2, 18, 5, 6), torch.rand(2, 9, 5, 6)
    moves, rois = torch.randn(len(ROIS), 2, 2, 3), ROIS.round()
    for op, *others in (
        (lambda x, *o: mmops.deform_conv2d(x, *o, 1, 1), offset, kernel),
        (lambda x, *o: mmops.modulated_deform_conv2d(x, *o, None, 1, 1), offset, mask, kernel),
        (mmops.DeformRoIPool((2, 3), 0.25), rois, moves),
        (mmops.CARAFE(3, 1, 2), torch.rand(2, 9, 10, 12)),
        (
            lambda x, *o: MSDeformAttn(
                x.flatten(2).mT.unflatten(2, (2, 2)), torch.tensor([[5, 6]]), torch.tensor([0]), *o, 64
            ),
            torch.rand(2, 3, 2, 1, 2, 2),
            torch.rand(2, 3, 2, 1, 2),
        ),
    ):
        others = [tensor.to(dtype) for tensor in others]
        results = []
        for wide in (torch.float64, dtype):
            leaf = x.to(wide).to(memory_format=layout).detach().requires_grad_()
            output = op(leaf, *(tensor.to(wide) for tensor in others))
            output.sum().backward()
            assert output.dtype == leaf.grad.dtype == wide
            results.append((output.detach().double(), leaf.grad.double()))
        rtol = torch.finfo(dtype).eps  # rounded once, at the end
        for exact, ours in zip(*results, strict=True):
            torch.testing.assert_close(ours, exact, rtol=rtol, atol=exact.abs().max().item() * 1e-6)

"""Synchronised normalization."""

import pytest
import torch
import torch.nn.functional as F

from .references import mmops


def sync_bn(x, weight, bias, mean, var, processes):
    function = mmops.sync_bn.SyncBatchNormFunction.apply
    return function(x, mean, var, weight, bias, 0.3, 1e-3, None, processes, 'default')


@pytest.mark.parametrize(('processes', 'dtype'), [(1, torch.float32), (2, torch.float32), (2, torch.float16)])
def test_sync_bn(processes, dtype, monkeypatch):
    # As if a second process had the same samples.
    monkeypatch.setattr(mmops.sync_bn.dist, 'all_reduce', lambda tensor, group: tensor.mul_(2))
    x, weight, bias = torch.randn(3, 2, 4, 5) * 2 + 1, torch.rand(2), torch.randn(2)
    slope = torch.rand_like(x)
    results = []
    for reference in (True, False):
        leaves = [x.to(torch.float32 if reference else dtype), weight.clone(), bias.clone()]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        mean, var = torch.tensor([0.5, -0.5]), torch.tensor([1.5, 2.5])
        if reference:
            copies = leaves[0].repeat(processes, 1, 1, 1)
            output = F.batch_norm(copies, mean, var, *leaves[1:], True, 0.3, 1e-3)[:3]
        else:
            output = sync_bn(*leaves, mean, var, processes)
        # By symmetry, what the other process adds to the gradient is what the reference's copy adds.
        gradients = torch.autograd.grad(output, leaves, slope.to(output.dtype))
        results.append((output, mean, var, *gradients))
    reference, ours = results
    assert ours[0].dtype == ours[3].dtype == dtype
    unit = 1e-5 if dtype == torch.float32 else 1e-2
    for expected, got in zip(reference, ours, strict=True):
        torch.testing.assert_close(got.float(), expected, atol=unit, rtol=unit)


def test_sync_bn_without_affine_or_running_statistics():
    x = torch.randn(3, 2, 4, 5)
    torch.testing.assert_close(
        sync_bn(x, None, None, None, None, 1), F.batch_norm(x, None, None, None, None, True, 0, 1e-3)
    )

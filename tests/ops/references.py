"""What the tests of several operators share."""

import pytest
import torch

from ghost_det import ops

MODE = ops.ensure_ops()

import mmcv.ops as mmops  # noqa: E402, F401

if MODE != 'stand-in':
    pytest.skip('this mmcv has compiled operators', allow_module_level=True)


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


# On a (2, 3, 7, 9) map at scale 1/4: inside, hanging over each side, beyond it, thin, of no size, all of it.
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

"""Deformable and masked convolutions, compared with torchvision's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from .references import mmops, randn, same, stand_ins

pytestmark = stand_ins

GEOMETRIES = [
    # kernel, stride, padding, dilation, groups, deformable groups
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 3), (2, 1), (0, 2), (1, 2), 2, 1),
    ((3, 1), (1, 2), (2, 0), (2, 1), 1, 2),
    ((1, 2), (1, 1), (1, 1), (1, 1), 2, 4),
]


def inputs(kernel, stride, padding, dilation, groups, deform_groups):
    x, weight = randn(2, 4, 4, 3), randn(6, 4 // groups, *kernel)
    out = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = deform_groups * kernel[0] * kernel[1]
    return x, 1.5 * randn(2, 2 * taps, *out), torch.rand(2, taps, *out).double(), weight, randn(6)


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv(geometry):
    x, offset, mask, weight, bias = inputs(*geometry)
    place = geometry[1:4]
    same(
        lambda x, offset, weight: mmops.deform_conv2d(x, offset, weight, *geometry[1:]),
        lambda x, offset, weight: deform_conv2d(x, offset, weight, None, *place),
        *(x, offset, weight),
    )
    same(
        lambda *tensors: mmops.modulated_deform_conv2d(*tensors, *geometry[1:]),
        lambda x, offset, mask, weight, bias: deform_conv2d(x, offset, weight, bias, *place, mask),
        *(x, offset, mask, weight, bias),
    )


def test_gradients_of_a_part_are_scaled_and_added():
    x, offset, _, weight, _ = inputs(*GEOMETRIES[0])
    tensors = [tensor.requires_grad_() for tensor in (x, offset, weight)]
    output = mmops.deform_conv2d(*tensors, 1, 1)
    complete = torch.autograd.grad(output.sum(), tensors, retain_graph=True)
    for tensor, expected in zip(tensors, complete, strict=True):
        (part,) = torch.autograd.grad(2 * output.sum(), tensor, retain_graph=True)
        torch.testing.assert_close(part, 2 * expected)
    names = ('kW', 'kH', 'dW', 'dH', 'padW', 'padH', 'dilationW', 'dilationH', 'group', 'deformable_group')
    geometry = dict(zip(names, (3, 3) + (1,) * 8, strict=True))
    buffer = torch.ones_like(weight)
    mmops.deform_conv.ext_module.deform_conv_backward_parameters(
        x, offset, torch.ones_like(output), buffer, None, None, scale=0.5, im2col_step=1, **geometry
    )
    torch.testing.assert_close(buffer, 1 + complete[2] / 2)


def test_modulated_deform_conv_takes_the_first_entries_of_a_larger_offset():
    x, (offset, mask, weight) = randn(2, 4, 4, 3), (randn(2, 18, 7, 6), randn(2, 9, 7, 6), randn(6, 4, 3, 3))

    def reference(x, offset, mask, weight):
        offset, mask = (
            tensor.reshape(2, -1)[:, : n * 6].reshape(2, n, 2, 3) for n, tensor in ((18, offset), (9, mask))
        )
        return deform_conv2d(x, offset, weight, None, (2, 1), 1, 1, mask)

    def op(x, offset, mask, weight):
        return mmops.modulated_deform_conv2d(x, offset, mask, weight, None, (2, 1), 1, 1)

    same(op, reference, x, offset, mask, weight)
    for refused in (op, lambda x, offset, mask, weight: mmops.deform_conv2d(x, offset, weight, (2, 1), 1)):
        with pytest.raises(
            ValueError, match=r'offset is \(2, 18, 1, 3\); this geometry takes \(2, 18, 2, 3\)'
        ):
            refused(x, offset[:, :, :1, :3], mask[:, :, :1, :3], weight)


def test_a_point_one_cell_outside_has_no_gradient():
    """As in mmcv, not in torchvision: offsets that start as zeros make many of these."""
    x, offset, _, weight, _ = inputs(*GEOMETRIES[0])
    offset = torch.zeros_like(offset).requires_grad_()
    mmops.deform_conv2d(x, offset, weight, 1, 1).sum().backward()
    assert offset.grad.any() and not offset.grad[:, 0, 0].any()


def test_nan_and_infinite_offsets():
    x, offset, mask, weight, bias = inputs(*GEOMETRIES[0])
    offset[0, 0, 0, 0] = math.nan
    bad = mmops.deform_conv2d(x, offset, weight, 1, 1).isnan()
    assert bad[0, :, 0, 0].all() and not bad[1].any() and not bad[:, :, 1:].any() and not bad[..., 1:].any()
    results = []
    for far in (100, -1e30, math.inf, -math.inf):
        offset[:, 0::2] = far
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, offset, mask, weight, bias)]
        output = mmops.modulated_deform_conv2d(*leaves, 1, 1)
        results.append((output, *torch.autograd.grad(output.sum(), leaves)))
    for result in results[1:]:
        assert all(one.equal(other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((1, 5), (0, 2))])
def test_masked_conv(kernel, padding):
    layer, x = mmops.MaskedConv2d(3, 4, kernel, padding=padding).double(), randn(1, 3, 4, 5)
    mask = torch.rand(1, 4, 5) > 0.5
    torch.testing.assert_close(layer(x, mask.double()), layer(x) * mask)
    assert not layer(x, torch.zeros(1, 4, 5)).any()

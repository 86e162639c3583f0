"""Deformable and masked convolutions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from .references import mmops, randn, same, sample_reference, stand_ins

pytestmark = stand_ins


def deform_conv_reference(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    _, channels, *size = x.shape
    out_channels, _, *kernel = weight.shape
    out_h, out_w = (
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    share, taps = channels // deform_groups, kernel[0] * kernel[1]
    images = []
    for image, moves, scales in zip(x, offset, mask, strict=True):
        for row, column in itertools.product(range(out_h), range(out_w)):
            patch = []
            for tap, (i, j) in enumerate(itertools.product(range(kernel[0]), range(kernel[1]))):
                vector = []
                for group in range(deform_groups):
                    at = group * taps + tap
                    y = row * stride[0] - padding[0] + i * dilation[0] + moves[2 * at, row, column]
                    across = (
                        column * stride[1] - padding[1] + j * dilation[1] + moves[2 * at + 1, row, column]
                    )
                    plane = image[group * share : (group + 1) * share]
                    vector.append(sample_reference(plane, y, across) * scales[at, row, column])
                patch.append(torch.cat(vector))
            patch = torch.stack(patch, 1).chunk(groups)
            kernels = weight.flatten(2).chunk(groups)
            images.append(
                torch.cat([(k * p).sum((1, 2)) for k, p in zip(kernels, patch, strict=True)]) + bias
            )
    return torch.stack(images).view(len(x), out_h, out_w, out_channels).permute(0, 3, 1, 2)


GEOMETRIES = [
    # kernel, stride, padding, dilation, groups, deformable groups
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 3), (2, 1), (0, 2), (1, 2), 2, 1),
    ((3, 1), (1, 2), (2, 0), (2, 1), 1, 2),
    ((1, 2), (1, 1), (1, 1), (1, 1), 2, 4),
]


def deform_inputs(kernel, stride, padding, dilation, groups, deform_groups):
    x, weight = randn(2, 4, 4, 3), randn(6, 4 // groups, *kernel)
    out = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = deform_groups * kernel[0] * kernel[1]
    return x, 1.5 * randn(2, 2 * taps, *out), torch.rand(2, taps, *out).double(), weight, randn(6)


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv(geometry):
    x, offset, mask, weight, _ = deform_inputs(*geometry)

    def op(x, offset, weight):
        return mmops.deform_conv2d(x, offset, weight, *geometry[1:])

    def reference(x, offset, weight):
        return deform_conv_reference(x, offset, torch.ones_like(mask), weight, 0, *geometry[1:])

    same(op, reference, x, offset, weight)


@pytest.mark.parametrize(('geometry', 'with_bias'), list(zip(GEOMETRIES, [True, False, True, False])))
def test_modulated_deform_conv(geometry, with_bias):
    def op(*tensors):
        return mmops.modulated_deform_conv2d(*tensors[: 4 + with_bias], *(None,)[with_bias:], *geometry[1:])

    def reference(*tensors):
        return deform_conv_reference(*tensors[: 4 + with_bias], *(0,)[with_bias:], *geometry[1:])

    same(op, reference, *deform_inputs(*geometry)[: 4 + with_bias])


def test_deform_conv_gradients_of_a_part():
    x, offset, _, weight, _ = deform_inputs(*GEOMETRIES[0])
    tensors = [tensor.requires_grad_() for tensor in (x, offset, weight)]
    output = mmops.deform_conv2d(*tensors, 1, 1)
    whole = torch.autograd.grad(output.sum(), tensors, retain_graph=True)
    for tensor, expected in zip(tensors, whole, strict=True):
        (part,) = torch.autograd.grad(2 * output.sum(), tensor, retain_graph=True)
        torch.testing.assert_close(part, 2 * expected)
    names = ('kW', 'kH', 'dW', 'dH', 'padW', 'padH', 'dilationW', 'dilationH', 'group', 'deformable_group')
    geometry = dict(zip(names, (3, 3) + (1,) * 8, strict=True))
    buffer = torch.ones_like(weight)
    mmops.deform_conv.ext_module.deform_conv_backward_parameters(
        x, offset, torch.ones_like(output), buffer, None, None, scale=0.5, im2col_step=1, **geometry
    )
    torch.testing.assert_close(buffer, 1 + whole[2] / 2)


def test_deform_conv_of_a_small_input_and_wrong_offsets():
    layer = mmops.DeformConv2d(2, 3, 3, padding=1)
    assert layer(torch.randn(1, 2, 2, 1), torch.randn(1, 18, 2, 1)).shape == (1, 3, 2, 1)
    with pytest.raises(ValueError, match=r'offset is \(1, 18, 1, 1\); this geometry takes \(1, 18, 4, 5\)'):
        layer(torch.randn(1, 2, 4, 5), torch.randn(1, 18, 1, 1))


def test_modulated_deform_conv_takes_the_first_entries_of_a_larger_offset():
    x, (offset, mask, weight) = randn(2, 4, 4, 3), (randn(2, 18, 7, 6), randn(2, 9, 7, 6), randn(6, 4, 3, 3))
    geometry = ((2, 1), (1, 1), (1, 1), 1, 1)

    def reference(x, offset, mask, weight):
        first = [
            tensor.reshape(2, -1)[:, : n * 6].reshape(2, n, 2, 3) for n, tensor in ((18, offset), (9, mask))
        ]
        return deform_conv_reference(x, *first, weight, 0, *geometry)

    def op(x, offset, mask, weight):
        return mmops.modulated_deform_conv2d(x, offset, mask, weight, None, *geometry)

    same(op, reference, x, offset, mask, weight)
    with pytest.raises(ValueError, match=r'offset is \(2, 18, 1, 3\); this geometry takes \(2, 18, 2, 3\)'):
        op(x, offset[:, :, :1, :3], mask[:, :, :1, :3], weight)


def test_deform_conv_of_offsets_that_are_no_numbers():
    x, offset, _, weight, _ = deform_inputs(*GEOMETRIES[0])
    offset[0, 0, 0, 0] = math.nan
    bad = mmops.deform_conv2d(x, offset, weight, 1, 1).isnan()
    assert bad[0, :, 0, 0].all() and not bad[1].any() and not bad[:, :, 1:].any() and not bad[..., 1:].any()


@pytest.mark.parametrize('sign', [-1, 1])
def test_deform_conv_of_infinite_offsets(sign):
    x, offset, mask, weight, bias = deform_inputs(*GEOMETRIES[0])
    results = []
    for far in (100, 1e30, math.inf):
        offset[:, 1::5] = sign * far
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, offset, mask, weight, bias)]
        output = mmops.modulated_deform_conv2d(*leaves, 1, 1)
        results.append((output, *torch.autograd.grad(output.sum(), leaves)))
    for far in results[1:]:
        for result, expected in zip(far, results[0], strict=True):
            assert result.equal(expected)


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((1, 5), (0, 2))])
def test_masked_conv(kernel, padding):
    layer, x = mmops.MaskedConv2d(3, 4, kernel, padding=padding).double(), randn(1, 3, 4, 5)
    mask = torch.rand(1, 4, 5) > 0.5
    torch.testing.assert_close(layer(x, mask.double()), layer(x) * mask)
    assert not layer(x, torch.zeros(1, 4, 5)).any()


def test_masked_conv_at_the_end_of_a_map_that_is_not_padded():
    data = torch.full((2 * 6, 1), 9.0)
    image = torch.arange(24.0).view(1, 2, 3, 4)
    mmops.masked_conv.ext_module.masked_im2col_forward(
        image, torch.tensor([2]), torch.tensor([3]), data, kernel_h=2, kernel_w=3, pad_h=0, pad_w=0
    )
    assert data[:, 0].tolist() == [11.0, 0, 0, 0, 0, 0, 23.0, 0, 0, 0, 0, 0]

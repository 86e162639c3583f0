"""Operators that sample a map, each against a twin written here in loops, through mmcv's public functions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from .test_ops import ROIS, bilinear_twin, mmops, pytestmark, roi_align_twin  # noqa: F401

MSDeformAttn = mmops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def same(op, twin, *tensors):
    """Hold output and gradients of both against each other."""
    results = []
    for function in (op, twin):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        output = function(*leaves)
        results.append((output, *torch.autograd.grad(output, leaves, torch.ones_like(output).cumsum(-1))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    return results[0][0]


def sample_twin(plane, y, x):
    """Value of a ``(c, h, w)`` map at a point; it is zero outside, and has no slope a whole cell outside."""
    height, width = plane.shape[1:]
    total = plane.new_zeros(len(plane))
    if y <= -1 or x <= -1:
        return total
    top, left = int(y.floor()), int(x.floor())
    for row, by_row in ((top, 1 - y + top), (top + 1, y - top)):
        for column, by_column in ((left, 1 - x + left), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                total = total + plane[:, row, column] * by_row * by_column
    return total


def deform_conv_twin(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
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
                    vector.append(sample_twin(plane, y, across) * scales[at, row, column])
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

    def twin(x, offset, weight):
        return deform_conv_twin(x, offset, torch.ones_like(mask), weight, 0, *geometry[1:])

    same(op, twin, x, offset, weight)


@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_modulated_deform_conv(geometry, with_bias):
    def op(*tensors):
        return mmops.modulated_deform_conv2d(*tensors[: 4 + with_bias], *(None,)[with_bias:], *geometry[1:])

    def twin(*tensors):
        return deform_conv_twin(*tensors[: 4 + with_bias], *(0,)[with_bias:], *geometry[1:])

    same(op, twin, *deform_inputs(*geometry)[: 4 + with_bias])


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


@pytest.mark.parametrize('modulated', [True, False])
def test_deform_conv_packs_start_as_a_convolution(modulated):
    pack = (mmops.ModulatedDeformConv2dPack if modulated else mmops.DeformConv2dPack)(3, 4, 3, padding=1)
    pack, x = pack.double(), randn(1, 3, 4, 5)
    half = 0.5 if modulated else 1
    torch.testing.assert_close(pack(x), half * F.conv2d(x, pack.weight, padding=1))

    def twin(moves):
        mask = torch.full((1, 9, 4, 5), half, dtype=torch.float64)
        return deform_conv_twin(x, moves, mask, pack.weight, 0, (1, 1), (1, 1), (1, 1), 1, 1)

    moves = torch.zeros(1, 18, 4, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(twin(moves).sum(), moves)
    pack(x).sum().backward()
    torch.testing.assert_close(pack.conv_offset.bias.grad[:18], expected.sum((0, 2, 3)))


def test_deform_conv_of_a_small_input_and_wrong_offsets():
    layer = mmops.DeformConv2d(2, 3, 3, padding=1)
    assert layer(torch.randn(1, 2, 2, 1), torch.randn(1, 18, 2, 1)).shape == (1, 3, 2, 1)
    with pytest.raises(ValueError, match=r'offset is \(1, 18, 1, 1\); this geometry takes \(1, 18, 4, 5\)'):
        layer(torch.randn(1, 2, 4, 5), torch.randn(1, 18, 1, 1))


def test_modulated_deform_conv_takes_the_first_entries_of_a_larger_offset():
    x, (offset, mask, weight) = randn(2, 4, 4, 3), (randn(2, 18, 7, 6), randn(2, 9, 7, 6), randn(6, 4, 3, 3))
    geometry = ((2, 1), (1, 1), (1, 1), 1, 1)

    def twin(x, offset, mask, weight):
        first = [
            tensor.reshape(2, -1)[:, : n * 6].reshape(2, n, 2, 3) for n, tensor in ((18, offset), (9, mask))
        ]
        return deform_conv_twin(x, *first, weight, 0, *geometry)

    def op(x, offset, mask, weight):
        return mmops.modulated_deform_conv2d(x, offset, mask, weight, None, *geometry)

    same(op, twin, x, offset, mask, weight)
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


def deform_roi_pool_twin(features, offset, rois, size, scale, ratio, gamma):
    out = []
    for (image, *corners), moves in zip(rois.tolist(), offset, strict=True):
        x1, y1, x2, y2 = (corner * scale - 0.5 for corner in corners)
        bin_w, bin_h = (x2 - x1) / size[1], (y2 - y1) / size[0]
        grid_h, grid_w = ratio or math.ceil(bin_h), ratio or math.ceil(bin_w)
        for row, col in itertools.product(range(size[0]), range(size[1])):
            total = features.new_zeros(features.shape[1])
            for i, j in itertools.product(range(grid_h), range(grid_w)):
                y = y1 + bin_h * (row + (i + 0.5) / grid_h) + gamma * (y2 - y1) * moves[1, row, col]
                x = x1 + bin_w * (col + (j + 0.5) / grid_w) + gamma * (x2 - x1) * moves[0, row, col]
                total = total + bilinear_twin(features[int(image)], y, x)
            out.append(total / max(grid_h * grid_w, 1))
    return torch.stack(out).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize('ratio', [0, 2])
def test_deform_roi_pool(ratio):
    features, offset = randn(2, 3, 7, 9), randn(len(ROIS), 2, 2, 3)
    layer = mmops.DeformRoIPool((2, 3), 0.25, ratio, gamma=0.3)
    same(
        lambda x, moves: layer(x, ROIS, moves),
        lambda x, moves: deform_roi_pool_twin(x, moves, ROIS, (2, 3), 0.25, ratio, 0.3),
        features,
        offset,
    )
    still = same(
        lambda x: layer(x, ROIS), lambda x: roi_align_twin(x, ROIS, (2, 3), 0.25, ratio, True), features
    )
    torch.testing.assert_close(layer(features, ROIS, 0 * offset), still)


def test_deform_roi_pool_counts_cells_in_float32():
    rois = torch.tensor([[0, 0.4, 0.4, 0.4 + 6 * (1 + 1e-12), 0.4 + 4]], dtype=torch.float64)
    features = randn(1, 1, 8, 8)
    rounded = roi_align_twin(features, rois.round(decimals=6), (2, 3), 1, 0, True)
    torch.testing.assert_close(mmops.DeformRoIPool((2, 3))(features, rois), rounded)


@pytest.mark.parametrize('pack', [mmops.DeformRoIPoolPack, mmops.ModulatedDeformRoIPoolPack])
def test_deform_roi_pool_packs(pack):
    layer = pack((2, 3), 3, deform_fc_channels=8, spatial_scale=0.25).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    features = randn(2, 3, 7, 9).requires_grad_()
    assert gradcheck(lambda x: layer(x, ROIS[:3]), features, fast_mode=True)
    layer(features, ROIS[:3]).sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def max_roi_align_twin(features, rois, size, scale, ratio, aligned):
    out = []
    for roi in rois:
        side = (roi[3:] - roi[1:3]) * scale
        bins = (side if aligned else side.clamp(min=1)) / side.new_tensor([size[1], size[0]])
        grid = [ratio or math.ceil(step) for step in bins]
        if not grid[0] * grid[1]:
            out.append(features.new_zeros(features.shape[1], *size))
            continue
        # A bin's samples are bins of their own in a finer grid.
        fine = (size[0] * grid[1], size[1] * grid[0])
        samples = roi_align_twin(features, roi[None], fine, scale, 1, aligned)[0]
        out.append(F.max_pool2d(samples, (grid[1], grid[0])))
    return torch.stack(out)


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_by_the_maximum(aligned, ratio):
    layer = mmops.RoIAlign((2, 3), 0.25, ratio, 'max', aligned)
    output = same(
        lambda x: layer(x, ROIS),
        lambda x: max_roi_align_twin(x, ROIS, (2, 3), 0.25, ratio, aligned),
        randn(2, 3, 7, 9) - 1,
    )
    assert (output[3] == 0).all() and (output[0] < 0).any()


def carafe_twin(features, masks, kernel, groups, scale):
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

    def twin(features, masks):
        return carafe_twin(features, masks, kernel, groups, scale)

    output = same(mmops.CARAFE(kernel, groups, scale), twin, features, masks)
    assert mmops.CARAFENaive(kernel, groups, scale)(features, masks).equal(output)


def test_carafe_pack():
    layer = mmops.CARAFEPack(4, 2, up_kernel=3, compressed_channels=2).double()
    torch.nn.init.normal_(layer.content_encoder.weight)
    x = randn(1, 4, 3, 2).requires_grad_()
    mask = layer.kernel_normalizer(layer.content_encoder(layer.channel_compressor(x)))
    torch.testing.assert_close(layer(x), carafe_twin(x, mask, 3, 1, 2))
    assert gradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((1, 5), (0, 2)), (1, 0)])
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


def test_multi_scale_deformable_attention():
    shapes = torch.tensor([[3, 4], [2, 2]])
    starts = torch.tensor([0, 12])
    value, weights = randn(2, 16, 2, 3), randn(2, 3, 2, 2, 2)
    places = torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64) * 1.4 - 0.2

    def twin(value, places, weights):
        out = []
        for image, query, head in itertools.product(range(2), range(3), range(2)):
            total = 0
            for level, point in itertools.product(range(2), range(2)):
                (height, width), start = shapes[level].tolist(), starts[level]
                plane = value[image, start : start + height * width, head].t().view(3, height, width)
                x, y = places[image, query, head, level, point]
                sample = sample_twin(plane, y * height - 0.5, x * width - 0.5)
                total = total + sample * weights[image, query, head, level, point]
            out.append(total)
        return torch.stack(out).view(2, 3, 6)

    same(lambda v, p, w: MSDeformAttn(v, shapes, starts, p, w, 64), twin, value, places, weights)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_and_memory_formats(dtype, layout):
    x = torch.randn(2, 4, 5, 6).to(dtype)
    kernel, offset, mask = torch.randn(4, 4, 3, 3), torch.randn(2, 18, 5, 6), torch.rand(2, 9, 5, 6)
    moves, rois = torch.randn(len(ROIS), 2, 2, 3), ROIS.round()
    for op, *others in (
        (lambda x, *o: mmops.deform_conv2d(x, *o, 1, 1), offset, kernel),
        (lambda x, *o: mmops.modulated_deform_conv2d(x, *o, None, 1, 1), offset, mask, kernel),
        (mmops.DeformRoIPool((2, 3), 0.25), rois, moves),
        (mmops.RoIAlign((2, 3), 0.25, 2, 'max'), rois),
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
        # Rounded once, at the end; but mmcv keeps the place of a maximum in the dtype of the map.
        exactly = not isinstance(op, mmops.RoIAlign)
        rtol = torch.finfo(dtype).eps * (1 if exactly else 32)
        for exact, ours in zip(*results, strict=True):
            atol = exact.abs().max().item() * (1e-6 if exactly else rtol)
            torch.testing.assert_close(ours, exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize('layer', [mmops.DeformRoIPool((2, 3)), mmops.RoIAlign((2, 3), pool_mode='max')])
def test_no_regions(layer):
    features = torch.randn(2, 3, 7, 9, requires_grad=True)
    output = layer(
        features, torch.zeros(0, 5), *[torch.zeros(0, 2, 2, 3)] * isinstance(layer, mmops.DeformRoIPool)
    )
    assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert features.grad.shape == features.shape and not features.grad.any()

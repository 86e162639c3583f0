"""The stand-ins compared with the sources of mmcv's CUDA kernels, compiled as C++ for the CPU.

    python -m pytest tools/verify_operators/test_cuda.py

A compiled mmcv has many operators only for GPUs. Their kernels, which come with every mmcv, are C++ but for
a few words: cuda_kernels.cpp supplies these, and here are mmcv's launchers in Python.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghost_det.ops import ensure_ops
from ghost_det.ops.table import STAND_INS

from .operators import MAPS, close, map_with_ties, outcome, regions, same, same_roi_align

ensure_ops()

import mmcv  # noqa: E402

KERNELS = Path(mmcv.__file__).parent / 'ops/csrc/common/cuda'
COMPILER = shutil.which('c++') or shutil.which('g++') or shutil.which('clang++')
pytestmark = pytest.mark.skipif(
    not KERNELS.is_dir() or COMPILER is None, reason='no sources of mmcv, or no C++ compiler, here'
)

Launch = Callable[..., None]


@pytest.fixture(scope='module')
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Start a kernel by its name, for tensors (an empty one or None is NULL) and numbers."""
    folder = tmp_path_factory.mktemp('kernels')
    for header in ('cuda.h', 'pytorch_cuda_helper.hpp'):
        (folder / header).touch()
    source, built = Path(__file__).with_name('cuda_kernels.cpp'), folder / 'kernels.so'
    options = ['-std=c++17', '-O1', '-shared', '-fPIC', f'-I{folder}', f'-I{KERNELS}']
    subprocess.run([str(COMPILER), *options, source, '-o', built], check=True)
    library = ctypes.CDLL(str(built))

    def argument(value: Any) -> Any:
        if value is None or isinstance(value, Tensor):
            assert value is None or value.is_contiguous()
            return ctypes.c_void_p(value.data_ptr() if value is not None else None)
        kinds = {bool: ctypes.c_bool, int: ctypes.c_int, float: ctypes.c_float}
        return kinds[type(value)](value)

    def start(name: str, *values: Any, blocks: int = 1) -> None:
        arguments = [argument(value) for value in values]
        address = ctypes.c_void_p.in_dll(library, f'{name}_').value
        function = ctypes.CFUNCTYPE(None, *map(type, arguments))(address)
        for block in range(blocks):
            ctypes.c_uint.in_dll(library, 'blockIdx').value = block
            function(*arguments)
        ctypes.c_uint.in_dll(library, 'blockIdx').value = 0

    return start


def of_maps(launch: Launch, name: str, counted: int, shaped: int) -> Launch:
    """Return a kernel with a thread for each number of one argument; it ends with the sizes of another."""

    def kernel(*arguments: Any) -> None:
        threads, sizes = arguments[counted].numel(), arguments[shaped].shape[1:]
        launch(f'{name}_cuda_kernel', threads, *arguments, *sizes)

    return kernel


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
def test_sigmoid_focal_loss(gamma: float, alpha: float, weighted: bool, launch: Launch) -> None:
    logits, target = torch.randn(500, 7) * 2, torch.randint(0, 7 + (not weighted), (500,))
    weight = torch.rand(7 * weighted)
    for way in ('forward', 'backward'):

        def kernel(x: Tensor, target: Tensor, weight: Tensor, out: Tensor, *numbers: float) -> None:
            name = f'sigmoid_focal_loss_{way}_cuda_kernel'  # noqa: B023
            launch(name, x.numel(), x, target, weight, out, *numbers, x.shape[1])

        buffer = torch.full_like(logits, 9)
        ours = STAND_INS[f'sigmoid_focal_loss_{way}']
        # The kernel loses some digits: it takes the logarithm of a probability that it rounded to float32.
        same(ours, kernel, logits, target, weight, buffer, gamma, alpha, ulps=512)


@pytest.mark.parametrize('shape', MAPS)
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align(aligned: bool, ratio: int, shape: tuple[int, ...], launch: Launch) -> None:
    places = {'roi_align_forward': (2, 0), 'roi_align_backward': (0, 4)}
    kernels = {name: of_maps(launch, name, *each) for name, each in places.items()}
    features, rois = map_with_ties(shape), regions(40, shape)
    for size in ((1, 1), (2, 3), (7, 7)):
        same_roi_align(STAND_INS, kernels, features, rois, *size, 1 / shape[-1], ratio, 1, aligned)


@pytest.mark.parametrize('shape', MAPS)
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('kind', ['no offset', 'inside', 'anywhere'])
def test_deform_roi_pool(kind: str, ratio: int, shape: tuple[int, ...], launch: Launch) -> None:
    forward = of_maps(launch, 'deform_roi_pool_forward', 3, 0)
    backward = of_maps(launch, 'deform_roi_pool_backward', 0, 1)
    if kind == 'inside':
        shape = (2, 3, 16, 24, 4)
    features, rois = torch.randn(shape[:4]), regions(40, shape)
    if kind == 'inside':
        start = 12 + torch.rand(40, 2) * 20
        rois[:, 1:] = torch.cat((start, start + torch.rand(40, 2) * 15), 1)
    rois = rois[(rois[:, 3:] > rois[:, 1:3]).all(1)]  # of no size, 0 / 0 is added to the gradient
    for size in ((1, 1), (2, 3), (7, 7)):
        output = torch.zeros(len(rois), shape[1], *size)
        offset = torch.rand(0 if kind == 'no offset' else len(rois), 2, *size) * 2 - 1
        numbers = (*size, 1 / shape[-1], ratio, 0.3)
        tensors = (features, rois, offset)
        same(STAND_INS['deform_roi_pool_forward'], forward, *tensors, output, *numbers, ulps=64)
        grads = (torch.zeros_like(features), torch.zeros_like(offset))
        arguments = (torch.randn_like(output), *tensors, *grads, *numbers)
        theirs = outcome(backward, arguments, {})
        ours = outcome(STAND_INS['deform_roi_pool_backward'], arguments, {})
        # Beyond the border their gradient by the offset is not that of their output, which is constant there.
        for got, expected in list(zip(ours, theirs, strict=True))[1 : -1 if kind == 'anywhere' else None]:
            close(got, expected, ulps=64)


@pytest.mark.parametrize(('kernel', 'groups', 'scale'), [(3, 1, 2), (5, 2, 1), (1, 4, 3), (5, 1, 2)])
def test_carafe(kernel: int, groups: int, scale: int, launch: Launch) -> None:
    forward = of_maps(launch, 'carafe_naive_forward', 2, 2)
    backward = of_maps(launch, 'carafe_naive_backward', 0, 0)
    features, masks = torch.randn(2, 4, 6, 5), torch.randn(2, groups * kernel**2, 6 * scale, 5 * scale)
    output = torch.zeros(2, 4, 6 * scale, 5 * scale)
    numbers = (kernel, groups, scale)
    same(STAND_INS['carafe_naive_forward'], forward, features, masks, output, *numbers)
    grads = (torch.randn_like(output), features, masks, torch.zeros_like(features), torch.zeros_like(masks))
    same(STAND_INS['carafe_naive_backward'], backward, *grads, *numbers)


@pytest.mark.parametrize(('kernel', 'padding'), [((3, 3), (1, 1)), ((1, 5), (0, 2)), ((2, 3), (0, 0))])
@pytest.mark.parametrize('count', [0, 1, 17])
def test_masked_convolution(
    count: int, kernel: tuple[int, int], padding: tuple[int, int], launch: Launch
) -> None:
    def im2col(image: Tensor, rows: Tensor, columns: Tensor, out: Tensor, *numbers: int) -> None:
        arguments = (*image.shape[2:], *numbers, rows, columns, count, out)
        launch('MaskedIm2colForward', count * image.shape[1], image, *arguments)

    def col2im(data: Tensor, rows: Tensor, columns: Tensor, out: Tensor, *sizes: int) -> None:
        launch('MaskedCol2imForward', data.numel(), data, *sizes, rows, columns, count, out)

    image = torch.randn(1, 3, 6, 7)
    at = torch.randperm(42)[:count]
    rows, columns = at // 7, at % 7
    data = torch.full((3 * kernel[0] * kernel[1], count), 9.0)
    same(STAND_INS['masked_im2col_forward'], im2col, image, rows, columns, data, *kernel, *padding)
    ours = STAND_INS['masked_col2im_forward']
    same(ours, col2im, torch.randn(3, count), rows, columns, torch.zeros_like(image), 6, 7, 3)


def test_multi_scale_deformable_attention(launch: Launch) -> None:
    def sizes(value: Tensor, places: Tensor) -> tuple[int, ...]:
        batch, keys, heads, channels = value.shape
        _, queries, _, levels, points, _ = places.shape
        return batch, keys, heads, channels, levels, queries, points

    def forward(*arguments: Any) -> Tensor:
        value, _, _, places, _, _ = arguments
        out = value.new_zeros(len(value), places.shape[1], value[0, 0].numel())
        name = 'ms_deformable_im2col_gpu_kernel'
        launch(name, out.numel(), *arguments[:-1], *sizes(value, places), out)
        return out

    def backward(*arguments: Any) -> None:
        value, shapes, starts, places, weights, grad, *buffers, _ = arguments
        tensors = (grad, value, shapes, starts, places, weights)
        name = 'ms_deformable_col2im_gpu_kernel_gm'
        launch(name, grad.numel(), *tensors, *sizes(value, places), *buffers)

    shapes, starts = torch.tensor([[5, 4], [3, 2], [1, 1]]), torch.tensor([0, 20, 26])
    value, weights = torch.randn(2, 27, 2, 3), torch.rand(2, 9, 2, 3, 4)
    places = torch.rand(2, 9, 2, 3, 4, 2) * 1.6 - 0.3
    tensors = (value, shapes, starts, places, weights)
    out: Tensor = same(STAND_INS['ms_deform_attn_forward'], forward, *tensors, 64, ulps=64)[0]
    buffers = [torch.zeros_like(each) for each in (value, places, weights)]
    grad = torch.randn_like(out)
    same(STAND_INS['ms_deform_attn_backward'], backward, *tensors, grad, *buffers, 64, ulps=64)


@pytest.mark.parametrize('processes', [1, 3])
@pytest.mark.parametrize('shape', [(3, 4, 20), (1, 4, 1)])
def test_sync_bn(shape: tuple[int, int, int], processes: int, launch: Launch) -> None:
    channels = shape[1]

    def launcher(name: str) -> Callable[..., None]:
        return lambda x, *rest: launch(f'sync_bn_{name}_cuda_kernel', x, *rest, *shape, blocks=channels)

    def output(*arguments: Any) -> None:
        x, mean, var, weight, bias, running_mean, running_var, norm, std, out, *numbers = arguments
        tensors = (x, mean, var, running_mean, running_var, weight, bias, norm, std, out)
        launch('sync_bn_forward_output_cuda_kernel', *tensors, *shape, *numbers, blocks=channels)

    def data(*arguments: Any) -> None:
        launch('sync_bn_backward_data_cuda_kernel', arguments[-1].numel(), *arguments, *shape)

    x, mean, var = torch.randn(shape) * 2 + 1, torch.randn(4), torch.rand(4) + 0.1
    weight, bias, norm = torch.rand(4), torch.randn(4), torch.randn(shape)
    # The kernel adds up in order, in float32.
    same(STAND_INS['sync_bn_forward_mean'], launcher('forward_mean'), x, mean, ulps=64)
    same(STAND_INS['sync_bn_forward_var'], launcher('forward_var'), x, mean, var, ulps=64)
    buffers = (torch.randn(4), torch.rand(4), norm, torch.zeros(4), torch.zeros_like(x))
    tensors = (x, mean, var, weight, bias, *buffers)
    same(STAND_INS['sync_bn_forward_output'], output, *tensors, 1e-3, 0.3, processes)
    grads = (weight.clone(), bias.clone())
    same(STAND_INS['sync_bn_backward_param'], launcher('backward_param'), x, norm, *grads, ulps=64)
    tensors = (x, weight, *grads, norm, var, torch.zeros_like(x))
    same(STAND_INS['sync_bn_backward_data'], data, *tensors)


@pytest.mark.parametrize(('mode', 'offset'), list(itertools.product((0, 1), (0, 1))))
def test_bbox_overlaps(mode: int, offset: int, launch: Launch) -> None:
    def kernel(a: Tensor, b: Tensor, out: Tensor, mode: int, aligned: bool, offset: int) -> None:
        launch('bbox_overlaps_cuda_kernel', a, b, out, len(a), len(b), mode, aligned, offset)

    corner = torch.randint(0, 20, (60, 2)).float()
    boxes = torch.cat((corner, corner + torch.randint(0, 20, (60, 2))), 1)
    ours = STAND_INS['bbox_overlaps']
    same(ours, kernel, boxes, boxes[:9].clone(), torch.zeros(60, 9), mode, False, offset)
    same(ours, kernel, boxes, boxes.flip(0), torch.zeros(60), mode, True, offset)

"""The stand-ins compared with mmcv's compiled operators, where an mmcv with these is installed.

    python -m pytest tools/verify_operators/test_compiled.py

docs/operators.md says how to build one. Each operator gets the same tensors in both forms; what it returns,
the buffers it fills and the inputs it must leave alone are compared.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghost_det.ops import ensure_ops
from ghost_det.ops.table import STAND_INS

from . import operators
from .operators import MAPS, map_with_ties, regions, same_roi_align

if ensure_ops() != 'compiled':
    pytest.skip('this mmcv has no compiled operators to compare with', allow_module_level=True)

import mmcv._ext as ext  # noqa: E402

# What a build only for the CPU has, of the operators that have a stand-in.
ON_THE_CPU = {
    'bbox_overlaps',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'nms',
    'nms_match',
    'roi_align_backward',
    'roi_align_forward',
    'softnms',
}


def same(name: str, *arguments: Any, **named: Any) -> list[Any]:
    return operators.same(STAND_INS[name], getattr(ext, name), *arguments, **named)


def whole_boxes(n: int, size: int = 40) -> Tensor:
    """Whole-numbered, so that equal overlaps, touching boxes and boxes of one pixel occur."""
    corner = torch.randint(-5, size, (n, 2))
    return torch.cat((corner, corner + torch.randint(0, size, (n, 2))), 1).float()


def boxes_of(kind: str, n: int) -> tuple[Tensor, Tensor]:
    """Boxes ``(n, 4)`` and their scores."""
    if kind == 'whole':
        return whole_boxes(n), torch.randint(1, 8, (n,)) / 8
    boxes = torch.rand(n, 4) * 100
    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] / 3
    if kind == 'broken':  # turned round, of no size, far away
        boxes[::3] = boxes[::3, [2, 3, 0, 1]]
        boxes[1::7, 2:] = boxes[1::7, :2]
        boxes[2::11] += 1e6
    return boxes, torch.rand(n)


KINDS = ['whole', 'fractions', 'broken']
COUNTS = [0, 1, 2, 65, 700]


def in_turn(scores: Tensor) -> Tensor:
    """Distinct scores in the same order, of equal ones the first ahead.

    mmcv sorts them with torch's unstable sort, whose order of equal scores differs between processors.
    """
    ranks = torch.empty_like(scores)
    ranks[scores.argsort(descending=True, stable=True)] = torch.arange(len(scores), 0, -1).float()
    return ranks


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('n', COUNTS)
@pytest.mark.parametrize('offset', [0, 1])
def test_nms(kind: str, n: int, offset: int) -> None:
    boxes, scores = boxes_of(kind, n)
    for tenths in range(1, 10):
        kept = same('nms', boxes, in_turn(scores), tenths / 10, offset)[0]
        assert STAND_INS['nms'](boxes, scores, tenths / 10, offset).equal(kept)
        assert n < 700 or tenths > 1 or 5 < len(kept) < 600


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('n', COUNTS)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', [0, 1, 2])
def test_softnms(kind: str, n: int, offset: int, method: int) -> None:
    boxes, scores = boxes_of(kind, n)
    for threshold, sigma, least in ((0.3, 0.5, 1e-3), (0.6, 0.2, 0.3), (0.5, 0.5, 0.0)):
        # The rows after the last kept one are what the C++ operator tried in between: not part of the result.
        theirs, ours = torch.zeros(n, 5), torch.zeros(n, 5)
        arguments = (threshold, sigma, least, method, offset)
        keep = ext.softnms(boxes, scores, theirs, *arguments)
        assert STAND_INS['softnms'](boxes, scores, ours, *arguments).tolist() == keep.tolist()
        torch.testing.assert_close(ours[: len(keep)], theirs[: len(keep)], rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('n', COUNTS)
def test_nms_match(kind: str, n: int) -> None:
    boxes, scores = boxes_of(kind, n)
    for tenths in (1, 3, 5, 6, 9):
        groups = same('nms_match', torch.cat((boxes, in_turn(scores)[:, None]), 1), tenths / 10)[0]
        assert STAND_INS['nms_match'](torch.cat((boxes, scores[:, None]), 1), tenths / 10) == groups


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('m', 'n'), [(0, 0), (0, 3), (3, 0), (1, 1), (50, 80)])
def test_bbox_overlaps(kind: str, m: int, n: int, dtype: torch.dtype) -> None:
    first, second = boxes_of(kind, m)[0].to(dtype), boxes_of(kind, n)[0].to(dtype)
    for mode, offset in itertools.product((0, 1), (0, 1)):
        same('bbox_overlaps', first, second, torch.full((m, n), 9.0, dtype=dtype), mode, False, offset)
        if m <= n:
            ious = torch.full((m,), 9.0, dtype=dtype)
            same('bbox_overlaps', first, second[:m], ious, mode, True, offset)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('shape', MAPS)
@pytest.mark.parametrize('ratio', [0, 1, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('count', [0, 40])
def test_roi_align(count: int, aligned: bool, ratio: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    features = map_with_ties(shape).to(dtype)
    rois = regions(count, shape).to(dtype)
    for size in ((1, 1), (2, 3), (7, 7)):
        same_roi_align(STAND_INS, vars(ext), features, rois, *size, 1 / shape[-1], ratio, 1, aligned)


def test_roi_align_refuses_negative_sides() -> None:
    rois = torch.tensor([[0, 3.0, 1.0, 2.0, 4.0]])
    buffers = (torch.zeros(1, 1, 2, 2), *[torch.zeros(0)] * 2)
    for operator in (ext.roi_align_forward, STAND_INS['roi_align_forward']):
        with pytest.raises((RuntimeError, ValueError)):
            operator(torch.randn(1, 1, 4, 4), rois, *buffers, 2, 2, 1.0, 2, 1, True)


GEOMETRIES = [
    # kernel, stride, padding, dilation, groups, deformable groups
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((1, 1), (1, 1), (0, 0), (1, 1), 1, 1),
    ((2, 3), (2, 1), (0, 2), (1, 2), 2, 1),
    ((3, 1), (1, 2), (2, 0), (2, 1), 1, 2),
    ((3, 3), (2, 2), (1, 1), (1, 1), 4, 4),
    ((5, 5), (1, 1), (4, 4), (2, 2), 2, 4),
]
OFFSETS: dict[str, Callable[..., Tensor]] = {
    'none': torch.zeros,
    'near': lambda *shape: 1.5 * torch.randn(shape),
    'whole': lambda *shape: torch.randint(-3, 4, shape).float(),
    'halves': lambda *shape: torch.randint(-6, 7, shape) / 2,
    'far': lambda *shape: 20 * torch.randn(shape),
    'huge': lambda *shape: 1e20 * torch.randn(shape),
    'infinite': lambda *shape: torch.randn(shape).where(torch.rand(shape) < 0.7, torch.tensor(torch.inf)),
}


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('kind', OFFSETS)
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_deform_conv(geometry: tuple[Any, ...], kind: str, dtype: torch.dtype) -> None:
    (kernel, stride, padding, dilation, groups, deform_groups), batch = geometry, 2
    x, weight = torch.randn(batch, 8, 7, 6, dtype=dtype), torch.randn(12, 8 // groups, *kernel, dtype=dtype)
    size = torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = deform_groups * kernel[0] * kernel[1]
    offset = OFFSETS[kind](batch, 2 * taps, *size).to(dtype)
    mask = torch.rand(batch, taps, *size, dtype=dtype)
    output = torch.zeros(batch, 12, *size, dtype=dtype)
    grad, empty = torch.randn_like(output), torch.zeros(0, dtype=dtype)

    pairs = (('k', kernel), ('d', stride), ('pad', padding), ('dilation', dilation))
    named = {f'{name}{axis}': value[axis == 'W'] for name, value in pairs for axis in 'HW'}
    named = {**named, 'group': groups, 'deformable_group': deform_groups, 'im2col_step': batch}
    same('deform_conv_forward', x, weight, offset, output, empty, empty, **named)
    buffers = torch.zeros_like(x), torch.zeros_like(offset)
    same('deform_conv_backward_input', x, offset, grad, *buffers, weight, empty, **named)
    buffer = torch.zeros_like(weight)
    same('deform_conv_backward_parameters', x, offset, grad, buffer, empty, empty, scale=0.5, **named)

    pairs = (('kernel', kernel), ('stride', stride), ('pad', padding), ('dilation', dilation))
    named = {f'{name}_{axis}': value[axis == 'w'] for name, value in pairs for axis in 'hw'}
    named = {**named, 'group': groups, 'deformable_group': deform_groups}
    for with_bias in (True, False):
        bias = torch.randn(12 * with_bias, dtype=dtype)
        arguments = (x, weight, bias, empty, offset, mask)
        named['with_bias'] = with_bias
        same('modulated_deform_conv_forward', *arguments, output, empty, **named)
        buffers = tuple(torch.zeros_like(each) for each in (x, weight, bias, offset, mask))
        same('modulated_deform_conv_backward', *arguments, empty, *buffers, grad, **named)


def test_deform_conv_hides_an_offset_that_is_no_number() -> None:
    """C++ takes NaN for a place outside; here the output shows it. (Backward, C++ reads beyond the map.)"""
    x, weight, none = torch.randn(1, 2, 4, 4), torch.randn(2, 2, 1, 1), torch.zeros(0)
    offset, output = torch.full((1, 2, 4, 4), torch.nan), torch.full((1, 2, 4, 4), 9.0)
    names = ('kH', 'kW', 'dH', 'dW', 'dilationH', 'dilationW', 'group', 'deformable_group', 'im2col_step')
    named = {**dict.fromkeys(names, 1), 'padH': 0, 'padW': 0}
    ext.deform_conv_forward(x, weight, offset, output, none, none, **named)
    assert not output.any()
    STAND_INS['deform_conv_forward'](x, weight, offset, output, none, none, **named)
    assert output.isnan().all()


def test_modulated_deform_conv_takes_the_first_entries_of_a_larger_offset() -> None:
    x, weight, none = torch.randn(2, 4, 4, 3), torch.randn(6, 4, 3, 3), torch.zeros(0)
    named = {'kernel_h': 3, 'kernel_w': 3, 'stride_h': 2, 'stride_w': 1, 'pad_h': 1, 'pad_w': 1}
    named |= {'dilation_h': 1, 'dilation_w': 1, 'group': 1, 'deformable_group': 1, 'with_bias': False}
    arguments = (x, weight, none, none, torch.randn(2, 18, 7, 6), torch.rand(2, 9, 7, 6))
    same('modulated_deform_conv_forward', *arguments, torch.zeros(2, 6, 2, 3), none, **named)


def names_and_types(operator: Callable[..., Any]) -> list[tuple[str, str]]:
    """Parameters of a compiled operator, as pybind11 writes them in its docstring."""
    signature = (operator.__doc__ or '').partition('(')[2].partition(') ->')[0]
    return [tuple(each.split(': ')) for each in signature.split(', ') if ': ' in each]  # type: ignore[misc]


@pytest.mark.parametrize('name', sorted(STAND_INS.keys() & vars(ext).keys() - ON_THE_CPU))
def test_operators_that_are_compiled_only_for_gpus(name: str) -> None:
    operator = getattr(ext, name)
    kinds = dict(names_and_types(operator))
    arguments = {name: torch.zeros(2, 2) if 'Tensor' in kind else 1 for name, kind in kinds.items()}
    assert arguments
    refusal = 'implementation for device cpu(:0)? not found|must be a CUDA tensor'
    with pytest.raises(RuntimeError, match=refusal):
        operator(**arguments)


@pytest.mark.parametrize(
    'start',
    [
        'import mmcv._ext as before, ghost_det',
        'import ghost_det, mmcv._ext as before',
        "import mmcv.ops, ghost_det; before = sys.modules['mmcv.ops.nms'].ext_module",
        "from mmengine.config import Config; Config.fromfile('mine.py'); import mmcv._ext as before",
    ],
)
def test_compiled_operators_are_left_alone(start: str, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text("custom_imports = dict(imports=['ghost_det'])")
    code = f"""
import sys, torch
{start}
import ghost_det.ops, mmcv.ops
after, user = sys.modules['mmcv._ext'], sys.modules['mmcv.ops.nms'].ext_module
print(after is before, user is before, before.__file__)
print(sum(type(finder).__name__ == '_StandInFinder' for finder in sys.meta_path), ghost_det.ops.ensure_ops())
"""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    words = [sys.executable, '-c', code]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()[-2:]
    assert first == f'True True {ext.__file__}'
    assert second == '0 compiled'


def test_the_doctor_says_so() -> None:
    words = [sys.executable, '-m', 'ghost_det_main', 'doctor']
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "mmcv's operators: compiled" in done.stdout

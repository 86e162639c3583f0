"""Lanes, synchronised normalization, and whether mmdet finds every operator that it calls."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ghost_det.ops.table import STAND_INS

from .test_ops import mmops, pytestmark  # noqa: F401

MMCV_OPS = Path(mmops.__file__).parent


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def operators(module):
    """Names that a module of mmcv.ops looks up in the extension."""
    for node in ast.walk(ast.parse((MMCV_OPS / f'{module}.py').read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
            yield from ast.literal_eval(node.args[1])


def imported_from_mmcv_ops(path):
    """What a file of mmdet imports from mmcv.ops."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmcv.ops'):
            yield from (getattr(import_module(node.module), alias.name) for alias in node.names)


def test_every_operator_that_mmdet_calls_has_a_stand_in():
    import mmdet

    used = [
        each for path in Path(mmdet.__file__).parent.rglob('*.py') for each in imported_from_mmcv_ops(path)
    ]
    assert {mmops.DeformConv2d, mmops.CARAFEPack, mmops.MaskedConv2d, mmops.batched_nms} <= set(used)
    # These are in its configs by name.
    used += [mmops.ModulatedDeformRoIPoolPack, mmops.SAConv2d, mmops.SyncBatchNorm]
    modules = {getattr(each, '__self__', each).__module__ for each in used}
    needed = {name for module in modules for name in operators(module.split('.')[-1])}
    assert needed - STAND_INS.keys() == {'nms_rotated', 'nms_quadri'}  # of its neighbours in mmcv.ops.nms


def test_stand_ins_are_of_operators_that_mmcv_has():
    known = {name for path in MMCV_OPS.glob('*.py') for name in operators(path.stem)}
    assert STAND_INS.keys() - known <= {'line_nms_forward'}  # which mmcv 2.1.0 does not have
    for name, function in STAND_INS.items():
        assert name.startswith('get_') or function.__name__ == name


def line_nms_twin(lanes, scores, overlap, top_k):
    rows = lanes.shape[1] - 5

    def span(lane):
        start = int(lane[2] * (rows - 1) + 0.5)
        return start, start + int(lane[4]) - 1

    def close(a, b):
        first, last = max(span(a)[0], span(b)[0]), min(span(a)[1], span(b)[1], rows - 1)
        if last < first or first < 0:
            return False
        gaps = [abs(float(a[5 + row] - b[5 + row])) for row in range(first, last + 1)]
        return sum(gaps) / len(gaps) < overlap

    keep, parents, removed = [], [0] * len(lanes), set()
    order = sorted(range(len(lanes)), key=lambda i: -scores[i])
    for rank, best in enumerate(order):
        if best in removed or len(keep) == top_k:
            continue
        keep.append(best)
        for other in order[rank:]:
            if other == best or close(lanes[best], lanes[other]):
                parents[other] = len(keep)
                removed.add(other)
    return keep, parents


@pytest.mark.skipif(not hasattr(mmops, 'line_nms'), reason='this mmcv has no line_nms')
@pytest.mark.parametrize('top_k', [3, 40])
def test_line_nms(top_k):
    lanes, scores = torch.rand(40, 5 + 9), torch.rand(40)
    lanes[:, 2] = lanes[:, 2] * 1.5 - 0.5
    lanes[:, 4] = lanes[:, 4] * 8
    lanes[:, 5:] = lanes[:, 5:] * 4 + 40 * lanes[:, :1].round(decimals=1)
    keep, count, parents = mmops.line_nms(lanes, scores, overlap=6.0, top_k=top_k)
    twin, twin_parents = line_nms_twin(lanes, scores, 6.0, top_k)
    assert int(count) == len(twin) == min(top_k, len(twin))
    assert keep.tolist() == twin + [0] * (40 - len(twin))
    assert parents.tolist() == twin_parents
    assert top_k == 3 or 3 < len(twin) < 40


@pytest.mark.skipif(not hasattr(mmops, 'line_nms'), reason='this mmcv has no line_nms')
def test_line_nms_of_none():
    keep, count, parents = mmops.line_nms(torch.zeros(0, 77), torch.zeros(0), overlap=6.0, top_k=3)
    assert keep.shape == parents.shape == (0,) and count == 0


def sync_bn(x, weight, bias, mean, var, processes):
    function = mmops.sync_bn.SyncBatchNormFunction.apply
    return function(x, mean, var, weight, bias, 0.3, 1e-3, None, processes, 'default')


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('processes', [1, 2])
def test_sync_bn(processes, dtype, monkeypatch):
    # As if a second process had the same samples.
    monkeypatch.setattr(mmops.sync_bn.dist, 'all_reduce', lambda tensor, group: tensor.mul_(2))
    x, weight, bias = torch.randn(3, 2, 4, 5) * 2 + 1, torch.rand(2), torch.randn(2)
    slope = torch.rand_like(x)
    results = []
    for twin in (True, False):
        leaves = [x.to(torch.float32 if twin else dtype), weight.clone(), bias.clone()]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        mean, var = torch.tensor([0.5, -0.5]), torch.tensor([1.5, 2.5])
        if twin:
            copies = leaves[0].repeat(processes, 1, 1, 1)
            output = F.batch_norm(copies, mean, var, *leaves[1:], True, 0.3, 1e-3)[:3]
        else:
            output = sync_bn(*leaves, mean, var, processes)
        # By symmetry, what the other process adds to the gradient is what the twin's copy adds.
        gradients = torch.autograd.grad(output, leaves, slope.to(output.dtype))
        results.append((output, mean, var, *gradients))
    tolerance = {'atol': 1e-5, 'rtol': 1e-5} if dtype == torch.float32 else {'atol': 1e-2, 'rtol': 1e-2}
    twin, ours = results
    assert ours[0].dtype == ours[3].dtype == dtype
    for expected, got in zip(twin, ours, strict=True):
        torch.testing.assert_close(got.float(), expected, **tolerance)


def test_sync_bn_without_affine_or_running_statistics():
    x = torch.randn(3, 2, 4, 5)
    torch.testing.assert_close(
        sync_bn(x, None, None, None, None, 1), F.batch_norm(x, None, None, None, None, True, 0, 1e-3)
    )

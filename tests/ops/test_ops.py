"""The module of the operators: found, left alone if mmcv has its own, and its errors."""

import ast
import importlib
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import mmcv
import pytest
import torch
from mmcv.utils.ext_loader import check_ops_exist

from ghost_det import ops
from ghost_det.ops.table import STAND_INS

from .references import MODE, mmops


def test_the_module_is_found_after_any_compiled_one():
    assert MODE == 'stand-in'
    spec = find_spec('mmcv._ext')
    assert spec.origin == ops.__file__
    assert check_ops_exist()
    assert mmcv._ext is sys.modules['mmcv._ext']
    assert mmops.get_compiler_version() == mmops.get_compiling_cuda_version() == 'n/a'
    finders = list(sys.meta_path)
    assert ops.ensure_ops() == 'stand-in' and sys.meta_path == finders
    assert [type(finder).__name__ for finder in finders].index('_StandInFinder') > finders.index(PathFinder)


def test_compiled_operators_are_left_alone_and_broken_ones_and_a_missing_stack_reported(monkeypatch):
    def fail(name):
        raise ImportError('undefined symbol')

    theirs = ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', theirs)
    assert ops.ensure_ops() == 'compiled'
    assert sys.modules['mmcv._ext'] is theirs and not hasattr(theirs, 'nms')
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.setattr(ops, 'find_spec', lambda name: ModuleSpec(name, None, origin='/mmcv/_ext.so'))
    monkeypatch.setattr(importlib, 'import_module', fail)
    with pytest.raises(ImportError) as error:
        ops.ensure_ops()
    for part in ('undefined symbol', torch.__version__, '/mmcv/_ext.so', 'Rebuild', 'ghost-det[mm]'):
        assert part in str(error.value)
    monkeypatch.setattr(ops, 'missing', lambda names: ['mmcv'])
    with pytest.raises(ImportError, match='not installed here: mmcv'):
        ops.ensure_ops()


def test_an_operator_without_stand_in_fails_when_called():
    with pytest.raises(NotImplementedError, match="'box_iou_rotated'.*no compiled operators"):
        mmops.box_iou_rotated(torch.ones(2, 5), torch.ones(3, 5))
    for name in ('__path__', '_private'):
        with pytest.raises(AttributeError, match=name):
            getattr(sys.modules['mmcv._ext'], name)


def operators(path):
    """Names that a file of mmcv.ops looks up in the extension."""
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
            yield from ast.literal_eval(node.args[1])


@pytest.mark.filterwarnings('ignore:invalid escape sequence')
def test_every_operator_that_mmdet_calls_has_a_stand_in_and_mmcv_has_each():
    import mmdet

    texts = [path.read_text() for path in Path(mmdet.__file__).parent.rglob('*.py')]
    nodes = [node for text in texts if 'mmcv.ops' in text for node in ast.walk(ast.parse(text))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and 'mmcv.ops' in str(node.module)]
    used = [getattr(import_module(node.module), each.name) for node in imports for each in node.names]
    assert {mmops.DeformConv2d, mmops.CARAFEPack, mmops.MaskedConv2d, mmops.batched_nms} <= set(used)
    # These are in its configs by name.
    used += [mmops.ModulatedDeformRoIPoolPack, mmops.SAConv2d, mmops.SyncBatchNorm]
    modules = {getattr(each, '__self__', each).__module__ for each in used}
    needed = {name for module in modules for name in operators(sys.modules[module].__file__)}
    # Neighbours of others in the files of mmcv.ops, and RoIPool, which mmdet itself refuses on a CPU.
    others = {'nms_rotated', 'nms_quadri', 'roi_pool_forward', 'roi_pool_backward'}
    others |= {'softmax_focal_loss_forward', 'softmax_focal_loss_backward'}
    lanes = {'line_nms_forward'}  # of CLRNet, which finds lanes; mmcv 2.1.0 does not have it
    assert needed - STAND_INS.keys() - lanes == others
    known = {name for path in Path(mmops.__file__).parent.glob('*.py') for name in operators(path)}
    assert STAND_INS.keys() <= known

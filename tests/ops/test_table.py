"""Whether mmdet finds every operator that it calls."""

import ast
from importlib import import_module
from pathlib import Path

from ghost_det.ops.table import STAND_INS

from .references import mmops, stand_ins

pytestmark = stand_ins


MMCV_OPS = Path(mmops.__file__).parent


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

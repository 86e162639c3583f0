"""The module of the operators: found, left alone where mmcv has its own, and its errors."""

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import mmcv
import pytest
import torch
from mmcv.utils.ext_loader import check_ops_exist

from ghost_det import ops

from .references import MODE, mmops, stand_ins

pytestmark = stand_ins


def test_the_module_is_found():
    assert MODE == 'stand-in'
    spec = find_spec('mmcv._ext')
    assert spec.origin == ops.__file__
    assert check_ops_exist()
    assert mmcv._ext is sys.modules['mmcv._ext']
    assert mmops.get_compiler_version() == mmops.get_compiling_cuda_version() == 'n/a'


def test_ensure_ops_again_changes_nothing():
    module, finders = sys.modules['mmcv._ext'], list(sys.meta_path)
    assert ops.ensure_ops() == 'stand-in'
    assert sys.modules['mmcv._ext'] is module and sys.meta_path == finders


def test_a_module_that_someone_else_registered_is_left_alone(monkeypatch):
    theirs = ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', theirs)
    assert ops.ensure_ops() == 'compiled'
    assert sys.modules['mmcv._ext'] is theirs and not hasattr(theirs, 'nms')


def test_an_operator_without_stand_in_fails_when_called():
    with pytest.raises(NotImplementedError) as error:
        mmops.box_iou_rotated(torch.ones(2, 5), torch.ones(3, 5))
    message = str(error.value)
    for part in ("'box_iou_rotated'", 'no compiled operators', 'mmcv', 'docs/operators.md'):
        assert part in message
    module = sys.modules['mmcv._ext']
    assert module.box_iou_rotated.__name__ == 'box_iou_rotated'
    for name in ('__path__', '__wrapped__', '_private'):
        with pytest.raises(AttributeError, match=name):
            getattr(module, name)


LOAD_OPS = f"""
import sys, types
package = sys.modules['ghost_det'] = types.ModuleType('ghost_det')  # whose own import does more
package.__path__ = [{str(Path(ops.__file__).parents[1])!r}]
from ghost_det import ops
"""


def run(code, *path):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path)), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run([sys.executable, '-c', LOAD_OPS + code], env=env, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_mmdet_imports_after_ensure_ops_alone():
    output = run("""
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    print(error)
print(ops.ensure_ops())
import mmdet.models
print(mmdet.models.MaskRCNN.__name__)
""")
    assert "No module named 'mmcv._ext'" in output  # as it would be without
    assert output.split()[-2:] == ['stand-in', 'MaskRCNN']


@pytest.fixture
def fake_mmcv(tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    return tmp_path / 'mmcv'


def test_compiled_operators_win(fake_mmcv):
    (fake_mmcv / '_ext.py').write_text('nms = "compiled"')
    output = run(
        """
print(ops.ensure_ops(), ops.ensure_ops())
import mmcv._ext
print(mmcv._ext.nms, mmcv._ext.__file__, hasattr(mmcv._ext, 'softnms'), len(sys.meta_path))
print(sum(type(finder).__name__ == '_StandInFinder' for finder in sys.meta_path))
""",
        fake_mmcv.parent,
    )
    assert output.split()[:5] == ['compiled', 'compiled', 'compiled', str(fake_mmcv / '_ext.py'), 'False']
    assert output.split()[-1] == '0'


def test_broken_compiled_operators_are_reported(fake_mmcv):
    library = fake_mmcv / f'_ext{EXTENSION_SUFFIXES[0]}'
    library.write_bytes(b'not a library')
    output = run(
        """
try:
    ops.ensure_ops()
except ImportError as error:
    print(error)
""",
        fake_mmcv.parent,
    )
    for part in ('do not load', torch.__version__, str(library), 'Rebuild', 'ghost-det[mm]'):
        assert part in output


def test_a_missing_stack_is_reported(tmp_path):
    (tmp_path / 'mmdet').mkdir()  # as an uninstall may leave it
    output = run(f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
for absent in ('mmcv',), ('mmengine', 'mmcv', 'mmdet'):
    PathFinder.find_spec = lambda name, path=None, target=None: (
        find(name, [{str(tmp_path)!r}] if name in absent else path, target))
    try:
        ops.ensure_ops()
    except ImportError as error:
        print(error)
""")
    first, second = output.split('ghost_det needs')[1:]
    assert 'not installed here: mmcv.' in first
    assert 'not installed here: mmengine, mmcv, mmdet.' in second
    for part in ('pip install "ghost-det[mm]"', 'pip install "ghost-det[official]"', 'mmcv-lite 2.1.0'):
        assert part in first

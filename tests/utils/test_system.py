from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ghost_det.utils.system import RUNTIME, explain, missing
from tests.conftest import ROOT

ABSENT = "import sys; sys.modules.update(dict.fromkeys(['torch', 'mmengine', 'mmcv', 'mmdet']))\n"
TORCH_FREE = ['commands', 'config', 'data', 'demo', 'deploy', 'deploy.detect', 'deploy.detector', 'utils']


def run(code: str, **environ: str) -> str:
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **environ}
    done = subprocess.run([sys.executable, '-c', code], env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wrong_name_is_an_attribute_error() -> None:
    import ghost_det

    code = (
        'import ghost_det, ghost_det.deploy\nprint(hasattr(ghost_det, "nothing"), hasattr(ghost_det, "_x"))'
    )
    assert run(ABSENT + code) == 'False False\n' and not hasattr(ghost_det, 'nothing')


@pytest.mark.parametrize('name', TORCH_FREE)
def test_modules_that_need_no_torch(name: str) -> None:
    code = f'import sys, ghost_det.{name}\nprint({{"torch", "mmengine", "mmcv"}} & {{*sys.modules}})'
    assert run(code, **{RUNTIME: '1'}) == 'set()\n'


def test_metadata_need_neither_opencv_nor_an_engine() -> None:
    code = 'import sys; from ghost_det.deploy import Metadata\n'
    code += 'print({"cv2", "openvino", "onnxruntime"} & {*sys.modules})'
    assert run(code, **{RUNTIME: '1'}) == 'set()\n'


def test_missing_packages_are_named() -> None:
    assert missing(['torch', 'no_such_package', 'mmdet']) == ['no_such_package']
    assert 'pip install "ghost-det[mm]"' in explain(['torch'])

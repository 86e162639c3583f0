from __future__ import annotations

import os
import subprocess
import sys

from ghost_det.utils.system import RUNTIME, explain, missing
from tests.conftest import ROOT


def run(code: str, **environ: str) -> str:
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **environ}
    done = subprocess.run([sys.executable, '-c', code], env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_the_stack_a_wrong_name_is_an_attribute_error() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'mmengine', 'mmcv', 'mmdet']))\n"
    code += (
        'import ghost_det, ghost_det.deploy\nprint(hasattr(ghost_det, "nothing"), hasattr(ghost_det, "_x"))'
    )
    assert run(code) == 'False False\n'


def test_the_runtime_needs_no_torch_and_its_metadata_no_engine() -> None:
    code = 'import sys; from ghost_det.deploy import Metadata\n'
    code += 'print({"openvino", "onnxruntime"} & {*sys.modules})\n'
    code += 'from ghost_det import commands, config, data, demo, utils; from ghost_det.deploy import detect\n'
    code += 'print({"torch", "mmengine", "mmcv"} & {*sys.modules})'
    assert run(code, **{RUNTIME: '1'}) == 'set()\nset()\n'


def test_missing_packages_are_named() -> None:
    assert missing(['torch', 'no_such_package', 'mmdet']) == ['no_such_package']
    assert 'pip install "ghost-det[mm]"' in explain(['torch'])

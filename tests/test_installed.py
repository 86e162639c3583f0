from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ghost_det.installed import FREE, RUNTIME, explain, missing
from tests.conftest import ROOT

ABSENT = "import sys; sys.modules.update(dict.fromkeys(['torch', 'mmengine', 'mmcv', 'mmdet']))\n"
TRY = """
import ghost_det.deploy
for code in (
    'ghost_det.GhostNet',
    'from ghost_det import GhostNet',
    'import ghost_det.models.ghostnet',
    'from ghost_det.swap import swap',
    'ghost_det._private',
):
    try:
        exec(code)
    except (AttributeError, ImportError) as error:
        print(f'{type(error).__name__}: {error}'.partition(chr(10))[0])
    else:
        print('ok')
"""


def run(code: str, **environ: str) -> str:
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **environ}
    done = subprocess.run([sys.executable, '-c', code], env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_torch_the_package_says_what_brings_it() -> None:
    said = run(ABSENT + TRY).splitlines()
    needs = 'needs MMDetection and its libraries; not installed here: torch, mmengine, mmcv, mmdet.'
    assert said[:4] == [
        f'ImportError: ghost_det.{name} {needs} Install one of the two stacks:'
        for name in ('GhostNet', 'GhostNet', 'models', 'swap')
    ]
    assert said[4].startswith('AttributeError')
    assert 'pip install "ghost-det[mm]"' in explain(['torch'])


def test_the_variable_leaves_torch_out() -> None:
    said = run(TRY, **{RUNTIME: '1'})
    assert said.splitlines()[:4] == [
        f'ImportError: ghost_det.{name} needs torch, and {RUNTIME}=1 in the environment leaves it out: '
        'unset it'
        for name in ('GhostNet', 'GhostNet', 'models', 'swap')
    ]


@pytest.mark.parametrize('name', [*FREE, 'deploy.metadata', 'deploy.runtime', 'deploy.detect'])
def test_modules_that_need_no_torch(name: str) -> None:
    code = f'import sys, ghost_det.{name}\nprint({{"torch", "mmengine", "mmcv"}} & {{*sys.modules}})'
    assert run(code, **{RUNTIME: '1'}) == 'set()\n'


def test_metadata_alone_bring_neither_opencv_nor_an_engine() -> None:
    code = 'import sys\nfrom ghost_det.deploy import Metadata\n'
    code += 'print({"cv2", "openvino", "onnxruntime"} & {*sys.modules})'
    assert run(code, **{RUNTIME: '1'}) == 'set()\n'


def test_missing_packages_are_named() -> None:
    assert missing(['torch', 'no_such_package', 'mmdet']) == ['no_such_package']

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ghost_det.utils.system import RUNTIME, explain, missing
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ('environ', 'code', 'loaded'),
    [
        ({}, 'from ghost_det.deploy import Metadata', 'openvino onnxruntime'),
        (
            {RUNTIME: '1'},
            'from ghost_det import commands, config, data, demo, utils; from ghost_det.deploy import detect',
            'torch mmengine mmcv',
        ),
        # Without the stack, a wrong name is an AttributeError.
        (
            {},
            'import sys; sys.modules.update(dict.fromkeys(["torch", "mmengine", "mmcv", "mmdet"]))\n'
            'import ghost_det, ghost_det.deploy; assert not hasattr(ghost_det, "nothing")',
            '',
        ),
    ],
)
def test_the_runtime_needs_no_torch_and_its_metadata_no_engine(
    environ: dict[str, str], code: str, loaded: str
) -> None:
    code += f'\nimport sys; assert not {{*{loaded.split()}}} & {{*sys.modules}}'
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **environ}
    subprocess.run([sys.executable, '-c', code], env=env, check=True)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="torch's OpenMP is another one there")
@pytest.mark.parametrize(
    ('environ', 'spins'),
    [({}, "'5000'"), ({'GOMP_SPINCOUNT': '7'}, "'7'"), ({'OMP_WAIT_POLICY': 'PASSIVE'}, "'0'")],
)
def test_threads_of_the_program_spin_briefly_unless_it_is_set(environ: dict[str, str], spins: str) -> None:
    free = {
        key: value for key, value in os.environ.items() if key not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')
    }
    env = {**free, 'OMP_DISPLAY_ENV': 'VERBOSE', **environ}
    command = [sys.executable, ROOT / 'ghost_det_main.py', 'complexity', 'gfl_ghostnet_ghostpan_lite']
    shown = subprocess.run(command, env=env, capture_output=True, text=True).stderr
    assert f'GOMP_SPINCOUNT = {spins}' in shown


def test_missing_packages_are_named() -> None:
    assert missing(['torch', 'no_such_package', 'mmdet']) == ['no_such_package']
    assert 'pip install "ghost-det[mm]"' in explain(['torch'])

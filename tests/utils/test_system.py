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


def test_missing_packages_are_named() -> None:
    assert missing(['torch', 'no_such_package', 'mmdet']) == ['no_such_package']
    assert 'pip install "ghost-det[mm]"' in explain(['torch'])

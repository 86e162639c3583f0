"""The networks without MMDetection."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(('mmengine', 'mmcv', 'mmdet')))
"""
NOT_IMPORTED = """
assert not {'mmengine', 'mmcv', 'mmdet'} & set(sys.modules), 'imported'
"""
SCRIPT = """
import sys
import torch
from torchvision.models import resnet18
import ghost_det
from ghost_det import models

x = torch.rand(1, 3, 64, 64)
for name, network in models.NETWORKS.items():
    assert getattr(ghost_det, name) is network
    backbone = network(width=0.35, norm_layer=torch.nn.BatchNorm2d, act_layer=torch.nn.SiLU).eval()
    maps = backbone(x)
    neck = models.GhostPAN(backbone.out_channels, out_channels=8, num_outs=5).eval()
    assert [out.shape[2] for out in neck(maps)] == [16, 8, 4, 2, 1]
    backbone.switch_to_deploy()
    models.optimize(backbone)
    for before, after in zip(maps, backbone(x)):
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
assert ghost_det.GhostPAN is models.GhostPAN
assert models.ghostify(resnet18()).eval()(x).shape == (1, 1000)
"""


@pytest.mark.parametrize(
    ('script', 'runtime'), [(BLOCKED + SCRIPT, '0'), (SCRIPT + NOT_IMPORTED, '1')], ids=['blocked', 'runtime']
)
def test_networks_need_only_torch(script: str, runtime: str) -> None:
    environment = {**os.environ, 'GHOST_DET_RUNTIME': runtime, 'PYTHONPATH': str(ROOT)}
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr

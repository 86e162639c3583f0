from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ghost_det.config.load import load_config
from ghost_det.swap.probe import build_detector, complexity
from tests.conftest import CONFIGS, ROOT


@pytest.mark.parametrize('config', CONFIGS, ids=lambda p: p.stem)
def test_parts_add_up(config: str) -> None:
    detector = build_detector(load_config(config).model)
    parts = complexity(detector, 96, 128)
    assert sum(parameters for parameters, _ in parts.values()) == sum(
        p.numel() for p in detector.parameters()
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.backbone(torch.zeros(1, 3, 96, 128))
    assert parts['backbone'][1] == counter.get_total_flops() // 2 > 0
    assert all(macs > 0 for _, macs in parts.values())


def test_tool_prints_the_table() -> None:
    words = [
        sys.executable,
        '-m',
        'ghost_det_main',
        'complexity',
        'configs/retinanet_ghostnet_fpn_lite.py',
        '--size',
        '320',
        '320',
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    names = [line.split()[0] for line in done.stdout.splitlines()[-5:]]
    assert names == ['part', 'backbone', 'neck', 'bbox_head', 'all']


def test_the_documented_sizes_are_what_the_tool_prints() -> None:
    words = [sys.executable, '-m', 'ghost_det_main', 'complexity', '--classifiers']
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert len(done.stdout.splitlines()) == 20
    assert done.stdout in (ROOT / 'docs/family.md').read_text()

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from tests.conftest import ROOT
from tools import sweep as module
from tools.sweep import Outcome, exercise, find_configs, page, sweep, try_config

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
SMALL = f"""
_base_ = '{RETINANET}'
model = dict(
    backbone=dict(base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
    bbox_head=dict(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=1),
)
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / 'small.py').write_text(SMALL)
    return tmp_path / 'small.py'


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def test_one_config_for_each_kind_of_detector() -> None:
    found = find_configs(['retinanet', RETINANET, 'cornernet'])
    retinanet = [name for name in found if name.startswith('mmdet::retinanet/')]
    assert len(retinanet) == 3 and retinanet[0] == retinanet[2] == RETINANET
    assert '_x101-' in retinanet[1]  # ResNeXt; those of ResNet in another depth or schedule are one kind
    assert any('cornernet' in name for name in found)
    with pytest.raises(UserError, match='fast: mmdet ships no such folder of configs; it has .*fast_rcnn'):
        find_configs(['fast'])


def test_a_config_works_in_part_or_is_refused_or_unreadable_or_fails(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = try_config(str(small), 'GhostNet:0.5')
    assert outcome[:5] == (str(small), 'RetinaNet', 'ResNet', 'works', '') and outcome.seconds > 0
    refused = try_config('mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py', 'GhostNet')
    assert refused.result == 'refused' and refused.reason.startswith('TridentResNet is part of the method')
    broken = small.with_name('broken.py')
    broken.write_text('model = dict(')
    unreadable = try_config(str(broken), 'GhostNet')
    assert unreadable.result == 'unreadable' and unreadable.reason.startswith('not a config')

    def mend(cfg: Any, optim_wrapper: Any = None) -> Any:
        if cfg['backbone']['type'] in broken_for:
            raise RuntimeError('loss is nan')
        return exercise(cfg, optim_wrapper)

    monkeypatch.setattr(module, 'exercise', mend)
    broken_for = {'GhostNet'}
    fails = try_config(str(small), 'GhostNet')
    assert (fails.result, fails.reason) == ('fails', 'RuntimeError: loss is nan')
    broken_for = {'GhostNet', 'ResNet'}
    in_part = try_config(str(small), 'GhostNet')
    assert (in_part.result, in_part.reason) == ('in part', 'RuntimeError: loss is nan')


def test_a_detector_whose_loss_does_not_reach_its_backbone_fails(small: Path) -> None:
    detector = load_config(small).model
    assert exercise(detector).backbone.layer3[0].downsample[0].weight.grad.any()
    detector.bbox_head.loss_cls.loss_weight = detector.bbox_head.loss_bbox.loss_weight = 0.0
    with pytest.raises(RuntimeError, match='the loss reaches'):
        exercise(detector)
    detector.bbox_head.loss_cls.loss_weight = float('nan')
    with pytest.raises(RuntimeError, match='the loss is nan'):
        exercise(detector)


def test_neither_a_crash_nor_a_loop_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(name: str, backbone: str) -> Outcome:
        if name == 'crashes':
            os._exit(7)
        if name == 'hangs':
            time.sleep(600)
        return Outcome(name, 'RetinaNet', 'ResNet', 'works', '', 0.0)

    monkeypatch.setattr(module, 'try_config', odd)
    start = time.perf_counter()
    found = sweep(['works', 'crashes', 'hangs', 'works'], 'GhostNet', jobs=2, seconds=5)
    assert time.perf_counter() - start < 60
    assert [o.result for o in found] == ['works', 'fails', 'fails', 'works']
    assert found[1].reason == 'its process ended with exit code 7'
    assert found[2].reason == 'still at work after 5 s'


def test_the_page_counts_configs_and_folders() -> None:
    rows = [
        Outcome('mmdet::a/2.py', 'A', 'ResNet', 'works', '', 1.0),
        Outcome('mmdet::a/1.py', 'A', 'ResNet', 'refused', 'x | <y>', 1.0),
        Outcome('mmdet::b/1.py', 'B', 'ResNet', 'fails', 'KeyError: z', 1.0),
        Outcome('mmdet::c/1.py', 'C', 'ResNet', 'refused', 'no', 1.0),
    ]
    text = page(rows, 'GhostNet', 'python -m tools.sweep')
    assert '| works | 1 |' in text and '| refused | 2 |' in text and '| in part | 0 |' in text
    assert (
        'Of 3 folders, the swap applies to 2; at least one config works, and none fails, in 1 of these'
        in text
    )
    assert '| a/1.py | A | ResNet | refused | x \\| &lt;y> |\n| a/2.py |' in text
    assert f'torch {torch.__version__.partition("+")[0]}' in text


def test_tool(tmp_path: Path, small: Path) -> None:
    # In a process of its own: it forks, which torch forbids where autograd's threads have been at work.
    def tool(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, '-m', 'tools.sweep', str(small), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)

    table = tmp_path / 'new/table.md'
    done = tool('--jobs', '1', '-o', str(table))
    assert done.returncode == 0, done.stderr
    assert '| works | 1 |' in table.read_text()
    done = tool('--backbone', 'GhostNet:wide', '-o', str(table))
    assert done.returncode == 2 and 'GhostNet:wide' in done.stderr

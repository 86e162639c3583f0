from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from tests.conftest import ROOT
from tools import sweep as module
from tools.sweep import Outcome, exercise, find_configs, page, read_rows, stack, sweep, try_config, write_rows

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
    path = tmp_path / 'small.py'
    path.write_text(SMALL)
    return path


def outcome(name: str, result: str, reason: str = '', on: str = 'mmdet 3.3.0') -> Outcome:
    return Outcome(on, name, 'RetinaNet', 'ResNet', 'GhostNet', result, reason)


def test_one_config_for_each_kind_of_detector() -> None:
    found = find_configs(['retinanet', RETINANET, 'cornernet'])
    retinanet = [name for name in found if name.startswith('mmdet::retinanet/')]
    assert len(retinanet) == 3 and retinanet[0] == retinanet[2] == RETINANET
    assert '_x101-' in retinanet[1]  # ResNeXt; those of ResNet in another depth or schedule are one kind
    assert any('cornernet' in name for name in found)
    with pytest.raises(UserError, match='fast: mmdet ships no such folder of configs; it has .*fast_rcnn'):
        find_configs(['fast'])


def test_each_result(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(small)
    works = Outcome(stack(), name, 'RetinaNet', 'ResNet', 'GhostNet:0.5', 'works', '')
    assert try_config(name, 'GhostNet:0.5') == works
    refused = try_config('mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py', 'GhostNet')
    assert refused.result == 'refused' and refused.reason.startswith('TridentResNet is part of the method')
    assert refused.config == 'tridentnet/tridentnet_r50-caffe_1x_coco.py'
    broken = small.with_name('broken.py')
    broken.write_text('model = dict(')
    assert try_config(str(broken), 'GhostNet').result == 'unreadable'

    def fail(cfg: Any, optim_wrapper: Any = None) -> Any:
        if cfg['backbone']['type'] in failing:
            raise RuntimeError('loss is nan')

    monkeypatch.setattr(module, 'exercise', fail)
    failing = set()
    for backbone, result in (('GhostNet', 'fails'), ('ResNet', 'in part')):
        failing.add(backbone)
        assert try_config(name, 'GhostNet')[-2:] == (result, 'RuntimeError: loss is nan')


def test_a_detector_whose_loss_does_not_reach_its_backbone_fails(small: Path) -> None:
    detector = load_config(small).model
    assert exercise(detector).backbone.layer3[0].downsample[0].weight.grad.any()
    detector.bbox_head.loss_cls.loss_weight = detector.bbox_head.loss_bbox.loss_weight = 0.0
    with pytest.raises(RuntimeError, match='the loss reaches'):
        exercise(detector)


def test_neither_a_crash_nor_a_loop_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(name: str, backbone: str) -> Outcome:
        if name == 'crashes':
            os._exit(7)
        if name == 'hangs':
            time.sleep(600)
        return outcome(name, 'works')

    monkeypatch.setattr(module, 'try_config', odd)
    found = sweep(['works', 'crashes', 'hangs', 'works'], 'GhostNet', jobs=2, seconds=3)
    assert [each.result for each in found] == ['works', 'fails', 'fails', 'works']
    assert 'exit code 7' in found[1].reason and '3 s' in found[2].reason


def test_the_page_is_written_from_the_rows(tmp_path: Path) -> None:
    rows = [
        outcome('a/1.py', 'refused', 'x | <y>, z'),
        outcome('a/2.py', 'works'),
        *(outcome('b/1.py', 'fails', 'KeyError: z', on) for on in ('mmdet 3.3.0', 'onedl-mmdetection 3.5.1')),
    ]
    write_rows(tmp_path / 'rows.csv', reversed(rows))
    assert read_rows(tmp_path / 'rows.csv') == rows
    text = (tmp_path / 'rows.md').read_text()
    assert '| refused | 0 | 1 | ' in text and '| fails | 1 | 1 | ' in text
    assert '| refused | x \\| &lt;y>, z | a/1.py (mmdet 3.3.0) |\n| fails | KeyError: z | b/1.py |' in text
    docs = ROOT / 'docs/sweep.csv'
    assert page(read_rows(docs), docs.name) == docs.with_suffix('.md').read_text()


def test_the_program_replaces_the_rows_of_its_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / 'rows.csv'
    write_rows(table, [outcome('a', 'works', on='other 1'), outcome('b', 'works', on=stack())])
    monkeypatch.setattr(module, 'find_configs', list)
    monkeypatch.setattr(
        module, 'sweep', lambda names, *_: [outcome(name, name, on=stack()) for name in names]
    )
    monkeypatch.setattr('sys.argv', ['sweep', 'works', 'fails', '-o', str(table)])
    with pytest.raises(UserError, match='1 of 2 fail: fails'):
        module.main()
    found = {row.config: row.result for row in read_rows(table)}
    assert found == {'a': 'works', 'works': 'works', 'fails': 'fails'}

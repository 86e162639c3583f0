"""Each benchmark of the clone, run on tiny settings."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ghost_det.deploy import Metadata
from ghost_det.errors import UserError
from ghost_det.utils.timing import Sample, Spread
from tests.export.exported import METADATA, save
from tools.benchmarks import _common, backbones, deployment, detectors, operators, training

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='memory is read in /proc')


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Disable logging, as the benchmarks themselves do where they are started; `loud` enables it again."""
    logging.disable(logging.WARNING)


def test_rows_have_quartiles_of_times_and_ratios() -> None:
    samples = {
        name: [Sample(second, 2 * second) for second in seconds]
        for name, seconds in {'theirs: eager': (2, 2, 3), 'ours: fast': (1, 4, 9)}.items()
    }
    theirs, ours = _common.rows_of(samples, 'theirs: eager', size=32, batch=2, threads=1)
    assert theirs.ratio == Spread(1, 1, 1) and ours.ratio == Spread(1.25, 2.0, 2.5)
    assert (ours.milliseconds.middle, ours.cpu, ours.rounds) == (4000, 4000, 3)
    *_, row = _common.table([theirs, ours], 'theirs: eager')
    assert row == '| ours | fast | 4,000 (2,500-6,500) | 2 (1.25-2.5) | 4,000 |  |'


@pytest.mark.parametrize('name', ['GhostNet 1.0', *list(backbones.NETWORKS)[-3:]])
def test_every_network_has_settled_maps_at_the_four_strides(name: str) -> None:
    network = backbones.network(name)
    with torch.no_grad():
        maps = network(torch.randn(1, 3, 64, 96))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert [tuple(each.shape[2:]) for each in maps] == [(64 // s, 96 // s) for s in backbones.STRIDES]
    assert all(0.05 < each.std() < 100 for each in maps) and not network.training


def test_backbones_in_every_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f'--sizes 32 --threads 1 --seconds 0.1 --int8 --json {tmp_path}/rows.json --only'.split()
    monkeypatch.setattr(sys, 'argv', ['benchmark', *words, 'RepGhostNet 1.0: '])
    backbones.main()
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / 'rows.json').read_text())
    names = [row['contender'] for row in found['rows']]
    engines = [engine for engine in backbones.ENGINES if engine != 'compiled']
    assert names == [backbones.BASELINE, *(f'RepGhostNet 1.0: {engine}' for engine in engines)]
    assert all(f'| RepGhostNet 1.0 | {engine} | ' in printed for engine in engines)
    assert 'processor' in found['machine'] and 'torch' in found['versions']
    monkeypatch.setitem(sys.modules, 'timm', None)
    backbones.network.cache_clear()
    with pytest.raises(UserError, match='timm is not installed: pip install timm'):
        backbones.network('timm lcnet_100')


def test_scores_are_shifted_until_so_many_pass_the_threshold() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cfg = detectors.readers(detectors.CONFIGS)['retinanet_ghostnet_fpn_lite']()
    detector, candidates = detectors.build(cfg, image, 50)
    assert candidates == 50
    found = detectors.torch_runner('eager', detector, image.repeat(2, 0).repeat(2, 1), 96)()
    assert 0 < len(found.scores) <= 50 and found.scores.min() > detector.test_cfg.score_thr
    _, every = detectors.build(cfg, image, None)
    assert every > 60


def test_a_training_step_of_backbones_has_a_row_for_each_layout() -> None:
    heading, _, _, *rows = training.backbone_training_table(2, (64, 64), 1)
    assert heading.startswith('2 images of 64 x 64')
    assert len(rows) == len(training.TRAINED) * len(training.LAYOUTS)
    assert rows[0].endswith('| 1.00 (1.00-1.00) |')


def test_exported_files_have_a_row_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(save(tmp_path / name, Metadata(**METADATA))) for name in ('a.xml', 'b.onnx')]
    monkeypatch.setattr(sys, 'argv', ['benchmark', *files, '--threads', '1', '--seconds', '0.1'])
    deployment.main()
    *_, head, _, first, second = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split('|')[3:-1]] == [
        '1 threads',
        'stream of 1',
        'stream of 8',
        'MB',
    ]
    for row, name in zip((first, second), ('a.xml', 'b.onnx')):
        _, file, side, call, *_, megabytes, _ = (cell.strip() for cell in row.split('|'))
        assert (file, side) == (name, '64 x 64') and float(call.split()[0]) > 0
        assert 30 < int(megabytes) < 400  # numpy, OpenCV and an engine, but no torch


def test_operators_have_a_row_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operators, 'CASES', {'NMS': operators.CASES['NMS, 10,000 boxes']})
    monkeypatch.setattr(sys, 'argv', ['benchmark', '--seconds', '0.1'])
    operators.main()
    *_, row = capsys.readouterr().out.splitlines()
    assert row.startswith('| NMS |') and float(row.split('|')[2]) > 0

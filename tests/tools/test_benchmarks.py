"""Each benchmark of the clone, run on tiny settings."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ghost_det.config.load import load_config
from ghost_det.data.annotations import read_annotations
from ghost_det.errors import UserError
from ghost_det.evaluation.coco import EVALUATOR, FAST
from ghost_det.utils.timing import Sample, Spread
from tests.conftest import ROOT
from tools.benchmarks import _common, annotations, backbones, detectors, evaluation, operators, training

LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='memory is read in /proc')


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Disable logging, as the benchmarks themselves do where they are started."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def run(main: Any, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, 'argv', ['benchmark', *words.split()])
    main()
    return capsys.readouterr().out


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


def test_part_of_a_name_chooses_contenders() -> None:
    assert _common.choose(['a: x', 'b: x'], ['B'], 'a: x') == ['a: x', 'b: x']
    with pytest.raises(UserError, match='--only nothing: no such contender; there are a: x'):
        _common.choose(['a: x'], ['nothing'], 'a: x')


@pytest.mark.parametrize('name', backbones.NETWORKS)
def test_every_network_has_settled_maps_at_the_four_strides(name: str) -> None:
    network = backbones.network(name)
    with torch.no_grad():
        maps = network(torch.randn(1, 3, 64, 96))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert [tuple(each.shape[2:]) for each in maps] == [(64 // s, 96 // s) for s in backbones.STRIDES]
    assert all(0.05 < each.std() < 100 for each in maps) and not network.training


def test_timms_network_at_full_depth_is_ours() -> None:
    ours, theirs = (backbones.network(name) for name in ('GhostNet 1.0', 'timm ghostnet_100'))
    short = backbones.network('timm ghostnet_100 features_only')
    count = [sum(each.numel() for each in net.parameters()) for net in (ours, theirs, short)]
    assert count[0] == count[1] > 2 * count[2]


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


@pytest.mark.parametrize('name', ['retinanet_ghostnet_fpn_lite', *list(detectors.SHIPPED)[1:]])
def test_scores_are_shifted_until_so_many_pass_the_threshold(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cfg = detectors.readers(detectors.CONFIGS)[name]()
    detector, candidates = detectors.build(cfg, image, 50)
    assert candidates == 50
    found = detectors.torch_runner('eager', detector, image.repeat(2, 0).repeat(2, 1), 96)()
    assert 0 < len(found.scores) <= 50 and found.scores.min() > detector.test_cfg.score_thr
    _, every = detectors.build(cfg, image, None)
    assert every > 60


def test_detectors_of_two_stages_are_refused() -> None:
    cfg = load_config(str(ROOT / 'configs/faster-rcnn_ghostnet_fpn.py'))
    with pytest.raises(UserError, match='faster-rcnn_ghostnet_fpn.py: expected a one-stage detector'):
        detectors.build(cfg, np.zeros((64, 64, 3), np.uint8), 50)


@pytest.mark.slow
def test_detectors_are_timed_from_pixels_to_boxes() -> None:
    only = ['fpn_lite: eager', 'fpn_lite: openvino', 'fpn_lite, untrained scores: eager']
    baseline, rows = detectors.measure(detectors.CONFIGS[:1], 64, 1, only, 0)
    assert baseline == 'retinanet_ghostnet_fpn_lite: eager'
    assert [row.contender.removeprefix('retinanet_ghostnet_') for row in rows] == only
    assert [row.note.split()[0] for row in rows[:2]] == ['200', '200']
    assert int(rows[-1].note.split()[0].replace(',', '')) > 1000


@pytest.mark.parametrize('polygons', [False, True])
def test_generated_annotations_are_of_cocos_form_and_proportions(tmp_path: Path, polygons: bool) -> None:
    path = tmp_path / 'a.json'
    annotations.write_annotations(path, 0.001, polygons)
    content = read_annotations(path)
    assert len(content['images']) == round(annotations.IMAGES / 1000)
    assert len(content['annotations']) == round(annotations.BOXES / 1000)
    assert len({box['image_id'] for box in content['annotations']}) == len(content['images'])
    assert all(bool(box['segmentation']) is polygons for box in content['annotations'])
    if polygons:  # COCO's own file has 520 bytes a box, images included
        assert 400 < path.stat().st_size / len(content['annotations']) < 700


@pytest.mark.slow
def test_memory_of_annotations_has_a_row_for_each_size_and_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(annotations.main, f'--scales 0.02 --folder {tmp_path}', monkeypatch, capsys)
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in printed.splitlines()[2:]]
    assert [row[:4] for row in rows] == [['0.02', '2366', '3', each] for each in ('yes', 'no')]
    for row in rows:
        start, main, peak, private, share = map(float, row[-5:])
        assert start < main <= peak and 0 < private < share < main
    assert not list(tmp_path.iterdir())


def test_every_worker_reports_its_memory_at_the_end_of_its_share() -> None:
    class Data(list[Any]):
        get_data_info = list.__getitem__

    for workers in (2, 5):
        probe = annotations._Probe(Data([{'instances': [{'bbox': [0, 0, 1, 1]}]}] * 1234), workers)
        loader = DataLoader(probe, annotations.BATCH, num_workers=workers, collate_fn=list)
        reported = [found['pid'] for batch in loader for _, found in batch if found]
        assert len(reported) == len(set(reported)) == workers


@pytest.mark.slow
def test_each_setting_of_a_training_step_is_timed_against_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f'{LITE} --batch-size 2 --size 128 --rounds 2'
    heading, _, _, _, *rows = run(training.main, words, monkeypatch, capsys).splitlines()
    assert heading.startswith('2 images of 128 x 128, 1 threads, 2 rounds')
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]
    assert [row[0] for row in cells] == ['channels-last', 'plain layout', 'bfloat16', 'EMA', 'accumulation']
    assert cells[0][-1] == '1.00 (1.00-1.00)' and all(float(row[3]) > 0 for row in cells)
    with pytest.raises(UserError, match='no step with 1 images of 64 x 64, channels-last: Expected more'):
        list(training.training_table(LITE, batch=1, side=64, rounds=1, compiled=False))


def test_a_training_step_of_backbones_has_a_row_for_each_layout() -> None:
    heading, _, _, *rows = training.backbone_training_table(2, (64, 64), 1)
    assert heading.startswith('2 images of 64 x 64')
    assert len(rows) == len(training.TRAINED) * len(training.LAYOUTS)
    assert rows[0].endswith('| 1.00 (1.00-1.00) |')


def test_operators_have_a_row_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operators, 'CASES', {'NMS': operators.CASES['NMS, 10,000 boxes']})
    *_, row = run(operators.main, '--seconds 0.1', monkeypatch, capsys).splitlines()
    assert row.startswith('| NMS |') and float(row.split('|')[2]) > 0


@pytest.mark.slow
@pytest.mark.skipif(EVALUATOR != FAST, reason='faster-coco-eval is not installed')
def test_evaluators_are_compared_in_figures_seconds_and_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = '--images 40 --detections 20 --rounds 1'
    what, _, *rows, ratio, equal = run(evaluation.main, words, monkeypatch, capsys).splitlines()
    assert what.startswith('40 images, 800 detections, 80 classes')
    assert [row.split()[0] for row in rows] == ['pycocotools', 'ghost_det']
    assert all(float(value) >= 0 for row in rows for value in row.split()[1:])
    assert ratio.startswith('ratio ') and equal.startswith('12 of 12 figures equal to the last digit')

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

import ghost_det_main
from ghost_det.benchmarks import ops
from ghost_det.benchmarks.annotations import BATCH, BOXES, IMAGES, _Probe, annotation_table, write_annotations
from ghost_det.benchmarks.evaluation import evaluation_table
from ghost_det.benchmarks.training import training_table
from ghost_det.data.annotations import read_annotations
from ghost_det.errors import UserError
from ghost_det.evaluation.coco import EVALUATOR, FAST
from tests.conftest import ROOT

LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='memory is read in /proc')


@pytest.mark.parametrize('polygons', [False, True])
def test_generated_annotations_are_of_cocos_form_and_proportions(tmp_path: Path, polygons: bool) -> None:
    path = tmp_path / 'a.json'
    write_annotations(path, 0.001, polygons)
    content = read_annotations(path)
    assert len(content['images']) == round(IMAGES / 1000) and len(content['annotations']) == round(
        BOXES / 1000
    )
    assert len({box['image_id'] for box in content['annotations']}) == len(content['images'])
    assert all(bool(box['segmentation']) is polygons for box in content['annotations'])
    if polygons:  # COCO's own file has 520 bytes a box, images included
        assert 400 < path.stat().st_size / len(content['annotations']) < 700


@pytest.mark.slow
def test_a_table_has_a_row_for_each_size_and_way(tmp_path: Path) -> None:
    head, *rows = annotation_table([0.02], workers=2, folder=tmp_path)
    assert [row.split()[:4] for row in rows] == [['0.02', '2366', '3', each] for each in ('yes', 'no')]
    for row in rows:
        start, main, peak, private, share = map(float, row.split()[-5:])
        assert start < main <= peak and 0 < private < share < main
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match='--workers 0'):
        list(annotation_table([1.0], workers=0))
    with pytest.raises(UserError, match='no such folder'):
        list(annotation_table([1.0], workers=1, folder=tmp_path / 'x'))


@pytest.mark.parametrize('workers', [2, 3, 5])
def test_every_worker_tells_its_memory_at_the_end_of_its_share(tmp_path: Path, workers: int) -> None:
    class Data(list[Any]):
        get_data_info = list.__getitem__

    probe = _Probe(Data([{'instances': [{'bbox': [0, 0, 1, 1]}]}] * 1234), workers)
    loader = DataLoader(probe, BATCH, num_workers=workers, collate_fn=list)
    told = [found['pid'] for batch in loader for _, found in batch if found]
    assert len(told) == len(set(told)) == workers


@pytest.mark.slow
def test_each_setting_of_a_training_step_is_timed_against_the_default() -> None:
    heading, head, _, *rows = training_table(LITE, batch=2, side=128, rounds=2, compiled=False)
    assert heading.startswith('2 images of 128 x 128, 1 threads, 2 rounds')
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]
    names = [row[0] for row in cells]
    assert names == ['channels-last', 'plain layout', 'bfloat16', 'EMA', 'accumulation']
    assert cells[0][-1] == '1.00 (1.00-1.00)' and all(float(row[3]) > 0 for row in cells)
    with pytest.raises(UserError, match='no step with 1 images of 64 x 64, channels-last: Expected more'):
        list(training_table(LITE, batch=1, side=64, rounds=1, compiled=False))
    with pytest.raises(UserError, match='--rounds 0: positive numbers'):
        list(training_table(LITE, batch=1, side=64, rounds=0, compiled=False))


def test_tool_prints_a_row_for_each_operator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, 'CASES', {'NMS': ops.CASES['NMS, 10,000 boxes']})
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'operators', '--seconds', '0.1'])
    ghost_det_main.main('benchmark')
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| NMS')]
    assert float(row.split('|')[2]) > 0


@pytest.mark.slow
@pytest.mark.skipif(EVALUATOR != FAST, reason='faster-coco-eval is not installed')
def test_evaluators_are_compared_in_figures_seconds_and_memory() -> None:
    what, _, *rows, ratio, equal = evaluation_table(images=40, detections=20, rounds=1)
    assert what.startswith('40 images, 800 detections, 80 classes')
    assert [row.split()[0] for row in rows] == ['pycocotools', 'ghost_det']
    assert all(float(value) >= 0 for row in rows for value in row.split()[1:])
    assert ratio.startswith('ratio ') and equal.startswith('12 of 12 figures equal to the last digit')
    with pytest.raises(UserError, match='--rounds 0: numbers from 1 up'):
        list(evaluation_table(images=1, detections=1, rounds=0))

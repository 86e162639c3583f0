from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from mmengine.hooks import Hook

from ghost_det.config.load import load_config
from ghost_det.evaluation.coco import FIGURES
from ghost_det.reports import record
from ghost_det.reports import training as report
from ghost_det.reports.logs import read_scalars
from ghost_det.reports.pictures import draw_pair
from ghost_det.reports.training import render
from ghost_det.swap.probe import build_detector, complexity

from .conftest import LITE, bare_record, require_self_contained, tiny


def test_the_report_has_the_runs_own_figures(runs: tuple[Path, Path], sample: Path) -> None:
    folder = runs[0]
    found = json.loads((folder / 'report.json').read_text())
    text = (folder / 'report.html').read_text()
    require_self_contained(text)
    (logged,) = [row for row in read_scalars(folder) if 'loss' not in row]
    figures = found['metrics']['bbox']['figures']
    assert list(figures) == list(FIGURES) and found['lacking'] == {}
    for name, value in figures.items():
        assert value == (None if logged[f'coco/bbox_{name}'] == -1 else logged[f'coco/bbox_{name}'])
    for each in found['metrics']['bbox']['classes']:
        assert each['AP'] == logged[f'coco/{each["name"]}_precision'] and f'<td>{each["name"]}</td>' in text
        assert each['AP_50'] is None or f'>{each["AP_50"]:.3f}</td>' in text
    for split in ('train', 'val'):
        truth = json.loads((sample / f'annotations/instances_{split}2017.json').read_text())
        part = found['data'][split]
        assert part['images'] == len(truth['images'])
        assert part['boxes'] == sum(part['by_size']) == sum(part['by_class'].values())
        assert part['boxes'] == len(truth['annotations'])
        small = [box for box in truth['annotations'] if box['bbox'][2] * box['bbox'][3] < 32**2]
        assert part['by_size'][0] == len(small)
    parts = complexity(build_detector(load_config(folder / LITE.name).model), 320, 320)
    assert found['cost']['input'] == [320, 320] and all(value > 0 for value in found['cost']['latency_ms'])
    assert {n: (p['parameters'], p['macs']) for n, p in found['cost']['parts'].items()} == parts
    assert f'{parts["backbone"][0] / 1e6:.3f}' in text
    assert escape(LITE.read_text()) in text and found['child'] == LITE.read_text()
    assert found['settings']['train_cfg']['max_epochs'] == 1
    assert found['trained'] == {'epochs': 1, 'iterations': 2, 'processes': 1}
    assert len(found['curves']['loss']) == 2 and found['curves']['mAP'][0]['mAP'] == figures['mAP']
    assert found['versions']['torch'] in text and str(found['environment']['threads'])
    assert found['checkpoint']['path'] == str(folder / 'epoch_1.pth')
    listing = (folder / 'commands.txt').read_text()
    assert set(found['commands']) == {'evaluate', 'resume', 'repeat'}
    assert all(line in listing and escape(line) in text for line in found['commands'].values())
    assert f'randomness.seed={found["commands"]["repeat"].rpartition("=")[2]}' in text
    shown = [each['file'] for name in ('best', 'worst') for each in found['images'][name]]
    assert shown and len(set(shown)) == len(shown) and all(file in text for file in shown)


@pytest.mark.slow
def test_a_finished_training_that_is_resumed_keeps_its_report_or_gets_one(
    runs: tuple[Path, Path], sample: Path
) -> None:
    folder = runs[0]
    before = (folder / 'report.json').read_bytes()
    tiny(sample, folder, resume='auto')
    assert (folder / 'report.json').read_bytes() == before
    (folder / 'report.html').unlink()
    tiny(sample, folder, resume='auto')
    found = json.loads((folder / 'report.json').read_text())
    figures = {name: value for name, value in json.loads(before)['metrics']['bbox']['figures'].items()}
    assert found['metrics']['bbox']['figures'] == figures and found['checkpoint'] is None
    assert 'cost' in found and 'images' not in found
    (folder / 'report.json').write_bytes(before)


def test_a_report_that_fails_does_not_fail_the_training(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError('none left')

    monkeypatch.setattr(record, 'measure_cost', broken)
    monkeypatch.setattr(record, 'draw_pair', broken)
    runner = tiny(sample, tmp_path)
    found = json.loads((tmp_path / 'report.json').read_text())
    assert found['lacking'] == {'cost': 'MemoryError: none left', 'images': 'MemoryError: none left'}
    assert 'Without cost: MemoryError' in (tmp_path / 'report.html').read_text()
    (tmp_path / 'report.html').unlink()
    monkeypatch.setattr(report, 'render', broken)
    report.report_training(runner, {'train': 1.0, 'evaluate': 0.0})
    (log,) = tmp_path.glob('*/*.log')
    assert 'report is not written: MemoryError: none left' in log.read_text()
    assert not (tmp_path / 'report.html').exists() and not list(tmp_path.glob('.partial-*'))


def test_an_unfinished_training_has_a_report_for_programs(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Hook, runner: Any) -> None:
        if runner.epoch == 1:
            raise RuntimeError('killed')

    monkeypatch.setattr(report.ReportHook, 'before_train_epoch', stop)
    with pytest.raises(Exception, match='killed'):
        tiny(sample, tmp_path, epochs=2)
    found = json.loads((tmp_path / 'report.json').read_text())
    (logged,) = [row for row in read_scalars(tmp_path) if 'loss' not in row]
    assert found['metrics']['bbox']['figures']['mAP'] == logged['coco/bbox_mAP']
    assert found['unfinished'] == 'epoch 1 of 2' and found['trained']['epochs'] == 1
    assert found['settings']['model']['backbone']['type'] == 'GhostNet' and found['seconds_by_log'] > 0
    assert len(found['curves']['mAP']) == 1 and not (tmp_path / 'report.html').exists()


def test_a_page_of_many_classes_and_large_images_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    pair = draw_pair(noise, [], [], [])
    classes = [{'name': f'class {n}', 'boxes': 9, **dict.fromkeys(('AP', 'AP_50'), 0.5)} for n in range(80)]
    content = bare_record(
        metrics={'bbox': {'figures': dict.fromkeys(FIGURES), 'classes': classes}},
        images={'score': 0.3, 'iou': 0.5},
    )
    pictures = {name: [('noise', pair)] * record.SHOWN for name in ('best', 'worst')}
    text = render(content, pictures)
    require_self_contained(text)
    assert 'trained for 1 epoch, 2 steps;' in text
    assert '<b>x</b>' not in text and 'class 79' in text and text.count('data:image/jpeg') == 2 * record.SHOWN


def test_a_long_class_name_is_cut_and_shown_in_full_under_the_pointer() -> None:
    name = 'so long <a name> ' + 'x' * 400
    metrics = {'bbox': {'figures': {'mAP': 0.5}, 'classes': [{'name': name, 'boxes': 1, 'AP': 0.5}]}}
    data: dict[str, Any] = {'val': dict.fromkeys(('images', 'images_without_boxes', 'boxes'), 1)}
    data['val'] |= {'by_size': [1, 0, 0], 'by_class': {name: 1}, 'annotations': 'x'}
    text = render(bare_record(metrics=metrics, data=data), {})
    short = escape('so long <a name> ' + 'x' * 22 + '…')
    assert text.count(f'<span title="{escape(name)}">{short}</span>') == 2 == text.count('x' * 400)

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from PIL import Image

from ghost_det.config.load import load_config
from ghost_det.evaluation.coco import FIGURES
from ghost_det.reports import record
from ghost_det.reports import training as report
from ghost_det.reports.training import render
from ghost_det.swap.probe import build_detector, complexity
from tests.conftest import ROOT, Training

from .self_contained import require_self_contained

LITE = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'


def test_the_report_has_the_figures_of_the_run(trained: Training, sample: Path) -> None:
    folder = trained.folder
    found = json.loads((folder / 'report.json').read_text())
    text = (folder / 'report.html').read_text()
    require_self_contained(text)
    logs = [path.read_text().splitlines() for path in sorted(folder.glob('*/vis_data/scalars.json'))]
    logged = json.loads(logs[-1][-1])
    figures = found['metrics']['bbox']['figures']
    assert list(figures) == list(FIGURES) and found['unfinished'] is None
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
    assert found['settings']['train_cfg']['max_epochs'] == 2
    assert found['checkpoint']['path'] == str(folder / 'epoch_2.pth')
    listing = (folder / 'commands.txt').read_text()
    assert set(found['commands']) == {'evaluate', 'resume', 'repeat'}
    assert all(line in listing and escape(line) in text for line in found['commands'].values())
    assert f'randomness.seed={found["commands"]["repeat"].rpartition("=")[2]}' in text
    assert text.count('data:image/png') == 5
    for name in ('curves', 'detections'):
        with Image.open(folder / f'{name}.png') as picture:
            assert picture.width > 800


def test_the_report_after_each_epoch_has_what_is_known_by_then(trained: Training) -> None:
    first, last = trained.first, json.loads((trained.folder / 'report.json').read_text())
    assert first['unfinished'] == 'epoch 1 of 2' and 'cost' not in first
    assert first['trained'] == {'epochs': 1, 'iterations': 2, 'processes': 1}
    assert last['trained'] == {'epochs': 2, 'iterations': 4, 'processes': 1}
    assert [row[0] for row in last['curves']['loss']] == [1, 2, 3, 4]
    assert last['curves']['loss'][:2] == first['curves']['loss'] and first['curves']['unit'] == 'epoch'
    assert [row['step'] for row in last['curves']['mAP']] == [1, 2]
    assert last['curves']['mAP'][:1] == first['curves']['mAP']
    assert last['curves']['mAP'][1]['mAP'] == last['metrics']['bbox']['figures']['mAP']


def test_a_report_that_fails_does_not_fail_the_training(
    trained: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError('out of memory')

    runner, warned = trained.runner, []
    folder = tmp_path / 'run'
    shutil.copytree(trained.folder, folder)
    monkeypatch.setattr(runner, '_work_dir', str(folder))
    monkeypatch.setattr(runner.logger, 'warning', warned.append)
    monkeypatch.setattr(record, 'measure_cost', broken)
    monkeypatch.setattr(record, 'summarize_data', broken)
    report.report_training(runner, {'train': 1.0, 'evaluate': 0.0})
    assert warned == [f'{name} could not be written: MemoryError: out of memory' for name in ('data', 'cost')]
    assert not json.loads((folder / 'report.json').read_text()).keys() & {'data', 'cost'}
    (folder / 'report.html').unlink()
    monkeypatch.setattr(report, 'render', broken)
    report.report_training(runner, {'train': 1.0, 'evaluate': 0.0})
    assert warned[-1] == 'report could not be written: MemoryError: out of memory'
    assert not (folder / 'report.html').exists() and not list(folder.glob('.partial-*'))


def test_a_page_of_many_classes_is_sorted_and_escaped() -> None:
    name = 'so long <a name> ' + 'x' * 400
    classes = [{'name': f'class {n}', 'boxes': 9, 'AP': n / 80 or None} for n in range(80)]
    classes.append({'name': name, 'boxes': 1, 'AP': 0.5})
    part = {'images': 1, 'images_without_boxes': 1, 'boxes': 1, 'by_size': [1, 0, 0], 'annotations': 'x'}
    content = {
        **{'name': '<b>x</b>', 'config': 'c.py', 'ghost_det': '0', 'created': 'now'},
        **dict.fromkeys(('versions', 'settings', 'commands'), {}),
        'environment': {'machine': {}, 'started_as': 'x'},
        'trained': {'epochs': 1, 'iterations': 2, 'processes': 1},
        'curves': {'unit': 'epoch', 'loss': [], 'mAP': []},
        'seconds': {'train': 1.0, 'evaluate': 1.0},
        'seconds_by_log': 7500.4,
        'metrics': {'bbox': {'figures': dict.fromkeys(FIGURES), 'classes': classes}},
        'data': {'val': {**part, 'by_class': {name: 1}}},
    }
    text = render(content, {})
    require_self_contained(text)
    assert 'trained for 1 epoch, 2 steps;' in text and '2:05:00' in text
    assert '<b>x</b>' not in text and '<a name>' not in text
    assert text.index('class 79') < text.index('class 1<') < text.index('class 0<')  # without AP, it is last
    short = escape('so long <a name> ' + 'x' * 22 + '…')
    assert text.count(f'<span title="{escape(name)}">{short}</span>') == 2 == text.count('x' * 400)

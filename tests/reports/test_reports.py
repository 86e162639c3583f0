from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest

from ghost_det.config.load import load_config
from ghost_det.data.dataset import find_data
from ghost_det.engine.train import train
from ghost_det.errors import UserError, run_tool
from ghost_det.evaluation.coco import FIGURES, class_table, evaluate
from ghost_det.evaluation.plots import plot_steps
from ghost_det.reports import record
from ghost_det.reports import training as report
from ghost_det.reports.compare import compare, read_run
from ghost_det.reports.elements import Html, element, page, picture, table
from ghost_det.reports.logs import curves, last_figures, read_scalars, training_seconds, unfinished
from ghost_det.reports.page import render
from ghost_det.reports.pictures import draw_pair, ends, rank
from ghost_det.swap.probe import build_detector, complexity
from tests.conftest import ROOT
from tests.scenes import annotations, hard_scene

LITE = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'
BOX = [10.0, 10.0, 50.0, 50.0]


def tiny(sample: Path, folder: Path, backbone: str | None = None, **settings: Any) -> Any:
    options = {'model.test_cfg.score_thr': 0.0, 'default_hooks.logger.interval': 1}
    settings = {'epochs': 1, 'batch_size': 4, 'pretrained': 'none', **settings}
    return train(
        str(LITE), find_data(sample), work_dir=str(folder), options=options, backbone=backbone, **settings
    )


@pytest.fixture(scope='module')
def runs(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Work folders of two trainings, with different backbones."""
    folder = tmp_path_factory.mktemp('runs')
    tiny(sample, folder / 'whole')
    tiny(sample, folder / 'half', 'GhostNet:0.5')
    return folder / 'whole', folder / 'half'


def bare_record(**parts: Any) -> dict[str, Any]:
    return {
        'name': '<b>x</b>', 'config': 'c.py', 'ghost_det': '0', 'created': 'now', 'lacking': {},
        'versions': {},
        'trained': {'epochs': 1, 'iterations': 2, 'processes': 1}, 'settings': {}, 'commands': {},
        'curves': {'unit': 'epoch', 'loss': [], 'mAP': []}, 'seconds_by_log': 0.0,
        'seconds': {'train': 1.0, 'evaluate': 1.0},
        **parts,
    }  # fmt: skip


def require_self_contained(text: str) -> None:
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(text)
    assert not {tag for tag, _ in tags} & {'script', 'link', 'iframe', 'object', 'base', 'form'}
    for tag, attributes in tags:
        assert not any(name in ('href', 'srcset') or name.startswith('on') for name in attributes), tag
        assert (attributes.get('src') or 'data:image/').startswith('data:image/')
    assert 'url(' not in text and '@import' not in text and "default-src 'none'" in text
    assert len(text) < 5e6


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
def test_a_finished_training_that_is_resumed_keeps_its_report_and_an_older_one_gets_one(
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


def test_no_fault_of_a_report_is_one_of_the_training(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError('none left')

    monkeypatch.setattr(record, 'cost', broken)
    monkeypatch.setattr(record, 'draw_pair', broken)
    runner = tiny(sample, tmp_path)
    found = json.loads((tmp_path / 'report.json').read_text())
    assert found['lacking'] == {'cost': 'MemoryError: none left', 'images': 'MemoryError: none left'}
    assert 'Without cost: MemoryError' in (tmp_path / 'report.html').read_text()
    (tmp_path / 'report.html').unlink()
    monkeypatch.setattr(report, 'render', broken)
    report.report_training(runner)
    (log,) = tmp_path.glob('*/*.log')
    assert 'report is not written: MemoryError: none left' in log.read_text()
    assert not (tmp_path / 'report.html').exists() and not list(tmp_path.glob('.partial-*'))


def test_images_are_ranked_by_what_is_right() -> None:
    boxes = [(1, BOX), (6, BOX), (6, [100.0, 10, 50, 50]), (11, BOX)]
    truth = annotations(
        [{'image_id': i, 'category_id': 7, 'bbox': b, 'area': 2500.0, 'iscrowd': 0} for i, b in boxes],
        5,
        (7, 3),
    )
    found = [
        {'image_id': 1, 'category_id': 7, 'bbox': BOX, 'score': 0.9},
        {'image_id': 1, 'category_id': 7, 'bbox': BOX, 'score': 0.29},  # not shown, so no fault
        {'image_id': 6, 'category_id': 7, 'bbox': BOX, 'score': 0.9},
        {'image_id': 6, 'category_id': 3, 'bbox': [100.0, 10, 50, 50], 'score': 0.9},  # of another class
        {'image_id': 16, 'category_id': 7, 'bbox': BOX, 'score': 0.5},
    ]
    ranked = rank(truth, found)
    assert [each.image_id for each in ranked] == [1, 6, 11, 16]
    assert [each.f1 for each in ranked] == [1, 0.5, 0, 0]  # the fifth image has nothing
    assert ranked[1][2:] == (2, 2, 1)
    best, worst = ends(ranked, 2)
    assert [each.image_id for each in best] == [1, 6] and {each.image_id for each in worst} == {11, 16}
    assert ends(ranked[2:], 3)[0] == [] and ends(ranked[:1], 3) == (ranked[:1], [])
    assert ends([], 3) == ([], [])
    scene, results = hard_scene(0)
    best, worst = ends(rank(scene, results), 6)
    assert len(best) == len(worst) == 6 and not set(best) & set(worst)
    assert min(each.f1 for each in best) >= max(each.f1 for each in worst)


def test_true_boxes_are_on_the_left_and_found_ones_on_the_right() -> None:
    image = np.zeros((300, 336, 3), np.uint8)
    true = [{'category_id': 7, 'bbox': [100, 100, 100, 100]}]
    found = [{'category_id': 7, 'bbox': [100, 100, 100, 100], 'score': score} for score in (0.9, 0.1)]
    for boxes, results, sides in ((true, [], 0), ([], found[:1], 1), ([], found[1:], None)):
        data = draw_pair(image, boxes, results, [{'id': 7, 'name': 'x'}])
        drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).max(axis=2)
        lit = [bool((half > 128).any()) for half in (drawn[:, :330], drawn[:, 348:])]
        assert lit == [sides == 0, sides == 1]


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


def test_pages_escape_what_is_not_theirs() -> None:
    assert element('p', '<i>') + '<i>' == '<p>&lt;i&gt;</p>&lt;i&gt;'
    assert isinstance(element('p', 'a') + 'b', Html)
    text = page('<t>', [table([['<a>'], ['"&']]), 'x<y', picture(b'\x89PNG')])
    assert '<th>&lt;a&gt;</th>' in text and '<td>&quot;&amp;</td>' in text and 'x&lt;y' in text
    assert '<title>&lt;t&gt;</title>' in text and 'image/png' in text


def test_curves_of_iterations_and_long_ones_are_kept_short() -> None:
    rows = [{'loss': 1.0, 'iter': n, 'step': n, 'lr': 0.1, 'time': 0.5} for n in range(10, 10_010, 10)]
    rows.insert(500, {'coco/bbox_mAP': 0.2, 'step': 0})  # as mmengine counts epochs in a loop of iterations
    rows.append({'coco/bbox_mAP': 0.3, 'step': 0, 'coco/bbox_mAP_50': -1.0, 'coco/a_precision': float('nan')})
    found = curves(rows, epochs=False)
    assert [each['step'] for each in found['mAP']] == [5000, 10_000] and found['unit'] == 'iteration'
    assert len(found['loss']) <= 400 and found['loss'][-1][0] == 10_000
    assert training_seconds(rows) == pytest.approx(5000)
    assert last_figures(rows) == {
        'bbox': {'figures': {'mAP': 0.3, 'mAP_50': None}, 'classes': [{'name': 'a', 'AP': None}]}
    }


def test_two_trainings_side_by_side(runs: tuple[Path, Path], tmp_path: Path) -> None:
    lines = list(compare(runs, tmp_path / 'new/page.html'))
    text = '\n'.join(lines)
    one, other = (json.loads((folder / 'report.json').read_text()) for folder in runs)
    for name in FIGURES:
        values = [run['metrics']['bbox']['figures'][name] for run in (one, other)]
        if None not in values:
            assert f'{values[1]:.3f} ({round(values[1] - values[0], 3) + 0.0:+.3f})' in text
    sizes = [run['cost']['parts']['backbone']['parameters'] for run in (one, other)]
    assert f'{sizes[1] / 1e6:.3f} (x {sizes[1] / sizes[0]:.2f})' in text and sizes[1] < sizes[0]
    assert 'GhostNet width 1.0' in text and 'GhostNet width 0.5' in text
    assert '| model.backbone.width ' in text and '| work_dir' not in text and '| lr' not in text
    assert 'Different annotations' not in text and '| disc ' in text
    written = (tmp_path / 'new/page.html').read_text()
    require_self_contained(written)
    assert 'whole against half' in written and 'data:image/png' in written
    assert f'{sizes[1] / 1e6:.3f} (x {sizes[1] / sizes[0]:.2f})' in written


def test_an_older_run_is_compared_by_its_logs_and_an_evaluation_by_its_file(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    older = tmp_path / 'older'
    for file in [*runs[1].glob('*/vis_data/scalars.json'), runs[1] / LITE.name]:
        copy = older / file.relative_to(runs[1])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    whole, by_logs = read_run(runs[1]), read_run(older)
    assert by_logs['metrics']['bbox']['figures'] == whole['metrics']['bbox']['figures']
    assert by_logs['settings']['model'] == load_config(runs[1] / LITE.name).model.to_dict()
    evaluation = {'schema': 1, 'metrics': whole['metrics'], 'annotations': {'path': 'x', 'sha256': 'other'}}
    (tmp_path / 'file.json').write_text(json.dumps(evaluation))
    text = '\n'.join(compare([runs[0], older, tmp_path / 'file.json']))
    assert (
        'older: no report.json' in text and 'Different annotations' in text and 'GhostNet width 0.5' in text
    )


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'no report.json, and no evaluation in its logs. A training writes it.*ghost-det test CONFIG'),
        ('[]', 'it has no metrics'),
        ('{"metrics": {"bbox": {}}, "schema": 2}', 'is of schema 2, this ghost_det reads 1'),
        ('{"metrics": {}, "schema": 1}', 'has no COCO figures. A training writes'),
        ('{', 'not json'),
    ],
)
def test_a_run_without_figures_is_refused(
    content: str | None, message: str, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / 'report.json').write_text(content)
    with pytest.raises(UserError, match=message) as error:
        list(compare([runs[0], tmp_path], tmp_path / 'page.html'))
    assert str(tmp_path) in str(error.value) and not (tmp_path / 'page.html').exists()


def test_broken_logs_and_odd_arguments_are_told(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ghost_det.commands.compare import main

    log = tmp_path / 'x/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": \n\n')
    page = tmp_path / 'page.html'
    page.mkdir()
    (tmp_path / 'link').symlink_to(runs[0])
    odd = tmp_path / 'odd.json'
    report = json.loads((runs[0] / 'report.json').read_text())
    odd.write_text(json.dumps({**report, 'cost': {'parts': 5, 'latency_ms': 'x'}}))
    for words, message in (
        ([runs[0]], 'two or more runs are wanted'),
        ([runs[0], tmp_path / 'none'], 'none: no such folder or file'),
        ([runs[0], tmp_path], "are not mmengine's"),
        ([runs[0], odd], 'odd.json: damaged: '),
        ([runs[0], runs[1], tmp_path / 'link'], 'link: is given twice|whole: is given twice'),
        ([runs[0], runs[0] / '../whole'], 'is given twice'),
        ([*runs, '-o', page], '-o .*: a file is wanted, this is a folder'),
        ([*runs, '-o', runs[0] / 'report.json'], 'a name that ends in .html is wanted'),
    ):
        monkeypatch.setattr('sys.argv', ['compare.py', *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            run_tool(main)
        assert stop.value.code == 2
        assert re.search(message, capsys.readouterr().err)


def test_a_long_class_name_leaves_room_for_its_figures(tmp_path: Path) -> None:
    name = 'so long <a name> ' + 'x' * 400
    scene = annotations(
        [{'image_id': 1, 'category_id': 7, 'bbox': BOX, 'area': 2500.0, 'iscrowd': 0}], 5, (7,)
    )
    scene['categories'][0]['name'] = name
    evaluation = evaluate(scene, [{'image_id': 1, 'category_id': 7, 'bbox': BOX, 'score': 0.9}], 'bbox')
    assert max(map(len, class_table(evaluation).splitlines())) < 120
    classes = [{'name': name, 'boxes': 1, 'AP': 0.5}]
    content = {'schema': 1, 'metrics': {'bbox': {'figures': {'mAP': 0.5}, 'classes': classes}}}
    files = [tmp_path / 'a.json', tmp_path / 'b.json']
    for file in files:
        file.write_text(json.dumps(content))
    lines = '\n'.join(compare(files, tmp_path / 'page.html')).splitlines()
    assert max(map(len, lines[:-1])) < 120
    written = (tmp_path / 'page.html').read_text()
    data = {'val': {key: 1 for key in ('images', 'images_without_boxes', 'boxes')}}
    data['val'] |= {'by_size': [1, 0, 0], 'by_class': {name: 1}, 'annotations': 'x'}  # type: ignore[dict-item]
    report = render(bare_record(metrics=content['metrics'], data=data), {})
    short = escape('so long <a name> ' + 'x' * 22 + '…')
    for text, times in ((written, 1), (report, 2)):
        assert text.count(f'<span title="{escape(name)}">{short}</span>') == times == text.count('x' * 400)


def test_an_unfinished_run_is_told_and_its_time_has_no_ratio(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / 'cut'
    (log,) = runs[1].glob('*/vis_data/scalars.json')
    copy = run / log.relative_to(runs[1])
    copy.parent.mkdir(parents=True)
    copy.write_bytes(log.read_bytes())
    config = (runs[1] / LITE.name).read_text()
    (run / LITE.name).write_text(config.replace('max_epochs=1', 'max_epochs=8'))
    told = 'cut: unfinished, its last evaluation is of epoch 1 of 8.'
    for given in ([runs[0] / 'report.json', run], [run, runs[0]]):  # whichever the others are held against
        lines = list(compare(given))
        (seconds,) = [row for row in '\n'.join(lines).splitlines() if 'training steps (s)' in row]
        assert 'unfinished |' in seconds and '(x ' not in seconds
        (iterations,) = [row for row in '\n'.join(lines).splitlines() if '| iterations ' in row]
        assert re.fullmatch(r'\| iterations +\| 2 +\| 2 +\|', iterations)
        assert told in lines
        assert '| whole ' in lines[1] and 'report.json' not in lines[1]
    (run / LITE.name).write_text(config)
    text = '\n'.join(compare([runs[0], run]))
    assert 'unfinished' not in text and re.search(r'training steps.*\(x ', text)


def test_a_training_of_iterations_is_unfinished_by_those_logged() -> None:
    rows = [{'loss': 1.0, 'iter': 90, 'step': 90}, {'coco/bbox_mAP': 0.2, 'step': 0}]
    logger = {'default_hooks': {'logger': {'interval': 10}}}
    assert unfinished(rows, {'train_cfg': {'max_iters': 200}, **logger}) == 'iteration 90 of 200'
    assert unfinished(rows, {'train_cfg': {'max_iters': 99}, **logger}) is None
    assert unfinished(rows, {}) is None


def test_one_point_is_seen_on_a_whole_step() -> None:
    figure, (one, many) = plt.subplots(1, 2)
    plot_steps(one, [8], [0.5])
    plot_steps(many, range(100), [0.5] * 100)
    low, high = one.get_xlim()
    assert [tick for tick in one.get_xticks() if low <= tick <= high] == [8]
    assert one.lines[0].get_marker() == 'o' and many.lines[0].get_marker() == ''
    plt.close(figure)

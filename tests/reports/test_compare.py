from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from markupsafe import escape

from ghost_det.errors import UserError, run_tool
from ghost_det.evaluation.coco import FIGURES
from ghost_det.reports.compare import compare, read_run

from .conftest import require_self_contained


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


def test_a_run_is_compared_with_the_file_of_an_evaluation(runs: tuple[Path, Path], tmp_path: Path) -> None:
    metrics = read_run(runs[1])['metrics']
    evaluation = {'schema': 1, 'metrics': metrics, 'annotations': {'path': 'x', 'sha256': 'other'}}
    (tmp_path / 'file.json').write_text(json.dumps(evaluation))
    text = '\n'.join(compare([runs[0], tmp_path / 'file.json']))
    assert 'Different annotations' in text and '| disc ' in text


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'no report.json. A training writes it.*ghost-det test CONFIG'),
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


def test_wrong_arguments_are_user_errors(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ghost_det.commands.compare import main

    page = tmp_path / 'page.html'
    page.mkdir()
    (tmp_path / 'link').symlink_to(runs[0])
    odd = tmp_path / 'odd.json'
    report = json.loads((runs[0] / 'report.json').read_text())
    odd.write_text(json.dumps({**report, 'cost': {'parts': 5, 'latency_ms': 'x'}}))
    for words, message in (
        ([runs[0]], 'expected two or more runs'),
        ([runs[0], tmp_path / 'none'], 'none: no such folder or file'),
        ([runs[0], odd], 'odd.json: damaged: '),
        ([runs[0], runs[1], tmp_path / 'link'], 'link: is given twice|whole: is given twice'),
        ([runs[0], runs[0] / '../whole'], 'is given twice'),
        ([*runs, '-o', page], '-o .*: expected a file, got a folder'),
        ([*runs, '-o', runs[0] / 'report.json'], 'expected a name that ends in .html'),
    ):
        monkeypatch.setattr('sys.argv', ['compare.py', *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            run_tool(main)
        assert stop.value.code == 2
        assert re.search(message, capsys.readouterr().err)


def test_a_long_class_name_leaves_room_for_its_figures(tmp_path: Path) -> None:
    name = 'so long <a name> ' + 'x' * 400
    classes = [{'name': name, 'boxes': 1, 'AP': 0.5}]
    content = {'schema': 1, 'metrics': {'bbox': {'figures': {'mAP': 0.5}, 'classes': classes}}}
    files = [tmp_path / 'a.json', tmp_path / 'b.json']
    for file in files:
        file.write_text(json.dumps(content))
    lines = '\n'.join(compare(files, tmp_path / 'page.html')).splitlines()
    assert max(map(len, lines[:-1])) < 120
    written = (tmp_path / 'page.html').read_text()
    short = escape('so long <a name> ' + 'x' * 22 + '…')
    assert written.count(f'<span title="{escape(name)}">{short}</span>') == 1 == written.count('x' * 400)


def test_an_unfinished_run_is_noted_and_its_time_has_no_ratio(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / 'cut'
    run.mkdir()
    content = {**read_run(runs[1]), 'unfinished': 'epoch 1 of 8'}
    (run / 'report.json').write_text(json.dumps(content))
    for given in ([runs[0] / 'report.json', run], [run, runs[0]]):  # whichever the others are compared with
        lines = list(compare(given))
        (seconds,) = [row for row in '\n'.join(lines).splitlines() if 'training steps (s)' in row]
        assert 'unfinished ' in seconds and '(x ' not in seconds
        (iterations,) = [row for row in '\n'.join(lines).splitlines() if '| iterations ' in row]
        assert re.fullmatch(r'\| iterations +\| 2 +\| 2 +\|', iterations)
        assert 'cut: unfinished, its last evaluation is of epoch 1 of 8.' in lines
        assert '| whole ' in lines[1] and 'report.json' not in lines[1]
    assert re.search(r'training steps.*\(x ', '\n'.join(compare(runs)))

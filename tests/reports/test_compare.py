from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from markupsafe import escape

from ghost_det.evaluation.coco import FIGURES
from ghost_det.reports.compare import compare, read_run
from tests.conftest import Cli

from .conftest import Runs, require_self_contained


def test_two_trainings_side_by_side(runs: Runs, tmp_path: Path) -> None:
    text = '\n'.join(compare([runs.resumed, runs.half], tmp_path / 'new/page.html'))
    written = (tmp_path / 'new/page.html').read_text()
    one, other = (read_run(folder / 'report.json') for folder in (runs.resumed, runs.half))
    for name in FIGURES:
        values = [run['metrics']['bbox']['figures'][name] for run in (one, other)]
        if None not in values:
            assert f'{values[1]:.3f} ({round(values[1] - values[0], 3) + 0.0:+.3f})' in text
    sizes = [run['cost']['parts']['backbone']['parameters'] for run in (one, other)]
    cost = f'{sizes[1] / 1e6:.3f} (x {sizes[1] / sizes[0]:.2f})'
    assert cost in text and cost in written and sizes[1] < sizes[0]
    assert 'GhostNet width 1.0' in text and 'GhostNet width 0.5' in text
    assert '| model.backbone.width ' in text and '| work_dir' not in text and '| lr' not in text
    assert 'different annotations' not in text and '| disc ' in text
    assert re.search(r'training steps.*\(x ', text)
    require_self_contained(written)
    assert 'resumed vs. half' in written and 'data:image/png' in written


def record(mAP: float = 0.5, **parts: Any) -> dict[str, Any]:
    classes = [{'name': 'so long <a name> ' + 'x' * 400, 'boxes': 1, 'AP': mAP}]
    return {'schema': 1, 'metrics': {'bbox': {'figures': {'mAP': mAP}, 'classes': classes}}, **parts}


def test_what_makes_runs_hard_to_compare_is_noted(tmp_path: Path) -> None:
    for name, content in {
        'a': record(
            seconds_by_log=8.0,
            annotations={'path': 'x', 'sha256': '1'},
            cost={'input': [320, 320], 'parts': {}, 'device': 'CPU', 'threads': 1},
        ),
        'b': record(
            0.25,
            seconds_by_log=4.0,
            unfinished='epoch 1 of 8',
            annotations={'path': 'x', 'sha256': '2'},
            cost={'input': [640, 640], 'parts': {}, 'device': 'CPU', 'threads': 2},
        ),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / 'report.json').write_text(json.dumps(content))
    (tmp_path / 'c.json').write_text(json.dumps(record()))
    paths = [tmp_path / 'a', tmp_path / 'b/report.json', tmp_path / 'c.json']
    lines = '\n'.join(compare(paths, tmp_path / 'page.html')).splitlines()
    assert '| a ' in lines[2] and '| b ' in lines[2] and '| c.json' in lines[2]
    text = '\n'.join(lines)
    assert '0.250 (-0.250)' in text and '0.500 (+0.000)' in text
    assert re.search(r'training steps \(s\) +\| 8 +\| - +\| - ', text)
    for note in ('different annotations', 'a [320, 320]; b [640, 640]', 'different machines'):
        assert note in text
    assert 'b: unfinished, last evaluated after epoch 1 of 8' in lines
    assert max(map(len, lines[:-1])) < 120  # the long class name is cut
    written = (tmp_path / 'page.html').read_text()
    name = escape('so long <a name> ' + 'x' * 400)
    assert written.count(f'<span title="{name}">') == 1 == written.count('x' * 400)
    assert '<span class="bad">0.250 (-0.250)</span>' in written


def test_wrong_arguments_are_user_errors(cli: Cli, tmp_path: Path) -> None:
    good = tmp_path / 'good.json'
    good.write_text(json.dumps(record()))
    (tmp_path / 'link.json').symlink_to(good)
    (tmp_path / 'page.html').mkdir()
    for name, content in {
        'list': '[]',
        'schema': '{"metrics": {"bbox": {}}, "schema": 2}',
        'none': '{"metrics": {}, "schema": 1}',
        'cut': '{',
    }.items():
        (tmp_path / f'{name}.json').write_text(content)
    before = sorted(tmp_path.rglob('*'))
    for words, part in (
        ('good.json', 'two or more'),
        ('good.json good.json', 'different runs'),
        ('good.json link.json', 'different runs'),
        ('good.json absent', 'absent'),
        ('good.json page.html', 'page.html/report.json'),
        ('good.json list.json', 'list.json'),
        ('good.json schema.json', 'schema.json'),
        ('good.json none.json', 'none.json'),
        ('good.json cut.json', 'cut.json'),
        ('good.json none.json -o page.html', '-o page.html'),
        ('good.json none.json -o x.json', '-o x.json'),
    ):
        done = cli('compare ' + words, cwd=tmp_path)
        assert done.returncode == 2 and 'Traceback' not in done.stderr
        assert done.stderr.startswith('error: ') and part in done.stderr, (words, done.stderr)
        assert sorted(tmp_path.rglob('*')) == before

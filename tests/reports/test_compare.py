import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from ghost_det.reports.compare import compare
from tests.conftest import Cli, Training

from .self_contained import require_self_contained

LONG = 'so long <a name> ' + 'x' * 400


def record(mAP: float = 0.5, **parts: Any) -> dict[str, Any]:
    classes = [{'name': LONG, 'boxes': 1, 'AP': mAP}]
    return {'schema': 1, 'metrics': {'bbox': {'figures': {'mAP': mAP}, 'classes': classes}}, **parts}


def cost(side: int, threads: int) -> dict[str, Any]:
    return {'input': [side, side], 'parts': {}, 'device': 'CPU', 'threads': threads}


def test_two_trainings_side_by_side(trained: Training, tmp_path: Path) -> None:
    one = json.loads((trained.folder / 'report.json').read_text())
    other = copy.deepcopy(one)
    other['settings']['model']['backbone']['width'] = 0.5
    other['settings']['work_dir'] = 'elsewhere'
    other['cost']['parts']['backbone']['parameters'] //= 4
    other['seconds_by_log'] *= 2
    other['metrics']['bbox']['figures']['mAP'] = one['metrics']['bbox']['figures']['mAP'] + 0.25
    (tmp_path / 'half').mkdir()
    (tmp_path / 'half/report.json').write_text(json.dumps(other))
    text = '\n'.join(compare([trained.folder, tmp_path / 'half'], tmp_path / 'new/page.html'))
    page = (tmp_path / 'new/page.html').read_text()
    size = one['cost']['parts']['backbone']['parameters'] // 4 / 1e6
    for part in (f'{size:.3f} (x 0.25)', ' (+0.250)', 'GhostNet width 1.0', 'GhostNet width 0.5'):
        assert part in text and part in page, part
    assert '| model.backbone.width ' in text and '| work_dir' not in text and '| lr' not in text
    assert 'different annotations' not in text and '| disc ' in text
    assert re.search(r'training steps.*\(x 2.00\)', text)
    require_self_contained(page)
    assert f'{trained.folder.name} vs. half' in page and 'data:image/png' in page


def test_what_makes_runs_hard_to_compare_is_noted(tmp_path: Path) -> None:
    runs = {
        'a/report': record(seconds_by_log=8.0, annotations={'sha256': '1'}, cost=cost(320, 1)),
        'b/report': record(
            0.25,
            seconds_by_log=4.0,
            unfinished='epoch 1 of 8',
            annotations={'sha256': '2'},
            cost=cost(640, 2),
        ),
        'c': record(),
    }
    for name, content in runs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    paths = [tmp_path / 'a', tmp_path / 'b/report.json', tmp_path / 'c.json']
    lines = '\n'.join(compare(paths, tmp_path / 'page.html')).splitlines()
    assert '| a ' in lines[2] and '| b ' in lines[2] and '| c.json' in lines[2]
    text = '\n'.join(lines)
    assert '0.250 (-0.250)' in text and '0.500 (+0.000)' in text
    assert re.search(r'training steps \(s\) +\| 8 +\| - +\| - ', text)
    for note in ('different annotations', 'a [320, 320]; b [640, 640]', 'different machines'):
        assert note in text
    assert 'b: unfinished, last evaluated after epoch 1 of 8' in lines
    assert max(map(len, lines[:-1])) < 130  # the long class name is cut
    page = (tmp_path / 'page.html').read_text()
    assert page.count(str(escape(LONG))) == 1 and '<a name>' not in page


@pytest.mark.parametrize(
    ('words', 'part'),
    [
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
    ],
)
def test_wrong_arguments_are_user_errors(words: str, part: str, cli: Cli, tmp_path: Path) -> None:
    good = json.dumps(record())
    schema, none = '{"metrics": {"bbox": {}}, "schema": 2}', '{"metrics": {}, "schema": 1}'
    files = {'good': good, 'list': '[]', 'schema': schema, 'none': none, 'cut': '{'}
    for name, content in files.items():
        (tmp_path / f'{name}.json').write_text(content)
    (tmp_path / 'link.json').symlink_to('good.json')
    (tmp_path / 'page.html').mkdir()
    before = sorted(tmp_path.rglob('*'))
    done = cli('compare ' + words, cwd=tmp_path)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert done.stderr.startswith('error: ') and part in done.stderr
    assert sorted(tmp_path.rglob('*')) == before

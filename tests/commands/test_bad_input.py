"""Bad input: one message that names it, an exit code, and nothing left behind."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ghost_det.errors import UserError, run_tool
from tests.conftest import Cli

from .bad_inputs import BEGUN, CASES, FILES, LITE, make_file

# The work folder, which is checked to be writable early; of a run that has begun, its log and config.
MADE = re.compile(r'work_dirs(/[^/]+(/test)?)?')
LEFT = re.compile(r'work_dirs/[^/]+(/test)?(/\d{8}_\d{6}.*|/[^/]+\.py|/annotations.*)?|work_dirs')


def words_of(command: str, folder: Path, sample: Path) -> list[str]:
    """Return the words of a command line, and create the files that it names."""
    for name in re.findall(r'@([^\s/]+)', command):
        if name in FILES and not (folder / name).exists():
            make_file(folder / name, FILES[name])
    return shlex.split(command.replace('@', '').replace('LITE', LITE).replace('SAMPLE', str(sample)))


def snapshot(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): 0 if path.is_dir() else path.stat().st_mtime_ns
        for path in folder.rglob('*')
    }


@pytest.mark.usefixtures('sooner')
@pytest.mark.parametrize(('command', 'part'), [*CASES, *BEGUN])
def test_a_bad_input_is_one_message(command: str, part: str, cli: Cli, tmp_path: Path, sample: Path) -> None:
    folder = tmp_path / 'place'
    folder.mkdir()
    words = words_of(command, folder, sample)
    before = snapshot(folder)
    done = cli('', *words, cwd=folder, XDG_CACHE_HOME=str(tmp_path / 'cache'))
    printed = re.sub('[^\n]*\r', '', done.stdout + done.stderr)  # without progress bars
    failed_images = command.startswith('classify --model')
    assert done.returncode == (1 if failed_images else 2), printed[-3000:]
    assert 'Traceback' not in printed
    messages = re.findall(r'(?m)^(?:error: |ghost-det [\w -]+: error: ).*(?:\n.*)*', printed)
    assert len(messages) == 1 and part in messages[0], printed[-3000:]
    after = snapshot(folder)
    allowed = LEFT if (command, part) in BEGUN else MADE
    assert all(after.get(name) == date for name, date in before.items())
    assert not [name for name in after.keys() - before.keys() if not allowed.fullmatch(name)]


def test_each_file_is_used() -> None:
    used = ' '.join(command for command, _ in CASES + BEGUN)
    assert not [name for name in FILES if f'@{name}' not in used and name != 'img-zero']


def test_a_process_of_its_own_and_its_workers(tmp_path: Path, sample: Path) -> None:
    command = 'train LITE --data @img-zero --pretrained none --batch-size 1'
    words = words_of(command, tmp_path, sample)
    done = subprocess.run(
        [sys.executable, '-m', 'ghost_det_main', *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert len(re.findall('(?m)^error: ', done.stderr)) == 1 and 'a.jpg' in done.stderr


def test_odd_names_are_fine(cli: Cli, tmp_path: Path, sample: Path) -> None:
    folder = tmp_path / 'Bilder für “α”  100 % {x} #1'
    shutil.copytree(sample, folder)
    for split in ('train', 'val'):
        path = folder / f'annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        for image in content['images']:
            odd = f'ü {image["id"]}\n%s.jpg'
            (folder / f'{split}2017' / image['file_name']).rename(folder / f'{split}2017' / odd)
            image['file_name'] = odd
        path.write_text(json.dumps(content), encoding='utf-16' if split == 'val' else 'utf-8')
    done = cli('check-data', folder, '--json', tmp_path / 'ü.json')
    assert done.returncode == 0, done.stdout


def bug() -> None:
    raise ZeroDivisionError('of the code')


def user_error() -> None:
    raise UserError('first\nsecond') from ValueError('the cause')


@pytest.mark.parametrize('shown', [False, True])
@pytest.mark.parametrize(('main', 'code'), [(bug, 1), (user_error, 2)])
def test_tracebacks_are_for_developers(
    shown: bool, main: Any, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['tool', 'a', *['--traceback'] * shown])
    with pytest.raises(SystemExit) as end:
        run_tool(main)
    printed = capsys.readouterr().err
    assert end.value.code == code and sys.argv == ['tool', 'a']
    assert ('Traceback' in printed) == shown
    if code == 1:
        assert 'unexpected error: ZeroDivisionError: of the code' in printed and 'report' in printed
    kept = list(tmp_path.glob('ghost_det-*.txt'))
    assert len(kept) == (code == 1 and not shown)
    assert all('in bug' in path.read_text() and str(path) in printed for path in kept)


def test_only_the_first_process_prints_more_than_a_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for rank, expected in (('0', 'error: first\nsecond\n'), ('3', 'process 3: error: first\n')):
        monkeypatch.setitem(os.environ, 'RANK', rank)
        with pytest.raises(SystemExit):
            run_tool(user_error)
        assert capsys.readouterr().err == expected

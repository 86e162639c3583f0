"""Bad input: one message that names it and says what to do, an exit code, and nothing left behind."""

from __future__ import annotations

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
from mmengine.registry import DefaultScope

from ghost_det import commands
from ghost_det.errors import UserError, run_tool

from .bad_inputs import CASES, FILES, LITE, Case, make_file

OF_PROCESSES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR')
# The work folder, which is proven to be writable before longer work; of a run that has begun, its log,
# and the config with all options in it.
MADE = re.compile(r'work_dirs(/[^/]+(/test)?)?')
LEFT = re.compile(r'work_dirs/[^/]+(/test)?(/\d{8}_\d{6}.*|/[^/]+\.py|/annotations.*)?|work_dirs')


def words_of(command: str, folder: Path, sample: Path) -> tuple[dict[str, str], list[str]]:
    """Return the environment and the words of a command line, and make the files that it names."""
    environment, words = {}, []
    for word in shlex.split(command):
        if not words and re.match('[A-Z_]+=', word):
            name, _, environment[name] = word.partition('=')
            continue
        if word.startswith('@'):
            name = word[1:].split('/')[0]
            if name in FILES and not (folder / name).exists():
                make_file(folder / name, FILES[name])
            word = str(folder / word[1:])
        words.append({'LITE': LITE, 'SAMPLE': str(sample)}.get(word, word))
    return environment, words


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob('*') if not p.is_dir()} | {
        str(p.relative_to(folder)): 0 for p in folder.rglob('*') if p.is_dir()
    }


def check(case: Case, code: Any, printed: str, before: dict[str, int], folder: Path) -> None:
    assert code in (1, 2) if case.command.startswith('classify') else code == 2, printed[-3000:]
    assert 'Traceback' not in printed
    printed = re.sub('[^\n]*\r', '', printed)  # of progress bars
    messages = re.findall(r'(?m)^(?:error: |ghost-det [\w -]+: error: ).*(?:\n.*)*', printed)
    assert len(messages) == 1, printed[-3000:]
    for part in case.parts:
        assert part in messages[0], messages[0]
    after = snapshot(folder)
    assert all(after.get(name) == date for name, date in before.items())
    left = [
        name for name in after.keys() - before.keys() if not (LEFT if case.begun else MADE).fullmatch(name)
    ]
    assert not left


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in OF_PROCESSES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    folder = tmp_path / 'place'
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run_here(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a tool in this process and return its exit code."""
    monkeypatch.setattr(sys, 'argv', ['ghost-det', name.replace('_', '-'), *words])
    try:
        commands.main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.command)
def test_a_bad_input_is_one_message(
    case: Case, place: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environment, (name, *words) = words_of(case.command, place, sample)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    before = snapshot(place)
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    code = run_here(name, words, monkeypatch)
    out, err = capfd.readouterr()
    check(case, code, out + err, before, place)


OUTSIDE = [
    'train LITE --data @img-zero --pretrained none --batch-size 1',
    'test LITE @bomb.pth --data SAMPLE',
    'weights verify @object.pth',
    'doctor --nope',
]


@pytest.mark.slow
@pytest.mark.parametrize('command', OUTSIDE)
def test_as_a_process_and_with_loader_workers_too(command: str, place: Path, sample: Path) -> None:
    _, (name, *words) = words_of(command, place, sample)
    before = snapshot(place)
    done = subprocess.run(
        [sys.executable, '-m', 'ghost_det_main', name, *words], capture_output=True, text=True, timeout=300
    )
    part = {'train': 'not an image', 'test': 'memory', 'weights': 'refused', 'doctor': '--nope'}[name]
    check(Case(command, (part,), name == 'train'), done.returncode, done.stdout + done.stderr, before, place)


def test_the_corpus_is_large() -> None:
    assert len({case.command for case in CASES}) == len(CASES) >= 60
    used = ' '.join(case.command for case in CASES)
    assert not [name for name in FILES if f'@{name}' not in used]


@pytest.mark.slow
def test_odd_names_that_are_right_work(place: Path, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / 'Bilder für “α”  100 % {x} #1'
    shutil.copytree(sample, folder)
    for split in ('train', 'val'):
        path = folder / f'annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        for image in content['images']:
            odd = f'ü {image["id"]}\n%s.jpg'
            (folder / f'{split}2017' / image['file_name']).rename(folder / f'{split}2017' / odd)
            image['file_name'] = odd
        path.write_text(json.dumps(content), encoding='utf-16' if split == 'val' else 'utf-8')
    config = folder / 'my config ñ.py'
    config.write_text(f'_base_ = {LITE!r}\n')
    words = [str(config), '--data', str(folder), '--work-dir', str(place / 'w ö'), '--epochs', '1']
    assert run_here('train', [*words, '--pretrained', 'none', '--batch-size', '4'], monkeypatch) == 0
    assert list((place / 'w ö').glob('epoch_1.pth'))


def fails() -> None:
    raise ZeroDivisionError('of the code')


def mistakes() -> None:
    raise UserError('of the user') from ValueError('the cause')


@pytest.mark.parametrize('shown', [False, True])
@pytest.mark.parametrize(('main', 'code'), [(fails, 1), (mistakes, 2)])
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
    assert all('in fails' in path.read_text() and str(path) in printed for path in kept)


def test_of_several_processes_the_others_say_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def main() -> None:
        raise UserError('first\nsecond')

    for rank, said in (('0', 'error: first\nsecond\n'), ('3', 'process 3: error: first\n')):
        monkeypatch.setitem(os.environ, 'RANK', rank)
        with pytest.raises(SystemExit):
            run_tool(main)
        assert capsys.readouterr().err == said

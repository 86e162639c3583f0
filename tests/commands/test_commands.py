"""What ``ghost-det`` and a clone's tools share."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from mmengine.config import Config

from ghost_det import commands
from ghost_det.config import shipped
from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from tests.conftest import CONFIGS, ROOT

LITE = 'retinanet_ghostnet_fpn_lite'
NAMES = [path.stem for path in (ROOT / 'ghost_det/commands').glob('[a-z]*.py')]


def ghost_det(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, 'argv', ['/somewhere/bin/ghost-det', *words])
    try:
        commands.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_each_command_is_listed_and_says_what_it_takes() -> None:
    assert {name.replace('_', '-') for name in NAMES} == set(commands.COMMANDS)
    for name in NAMES:
        parser = import_module(f'ghost_det.commands.{name}').make_parser()
        assert parser.description and parser.format_help()


@pytest.mark.parametrize('name', ['train', 'test', 'prepare_coco'])
def test_a_tool_is_the_command_of_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', [f'tools/{name}.py', '--help'])
    with pytest.raises(SystemExit, match='0'):
        runpy.run_path(str(ROOT / f'tools/{name}.py'), run_name='__main__')
    assert capsys.readouterr().out.startswith(f'usage: ghost-det {name.replace("_", "-")} ')


def test_the_program_alone_its_version_and_a_wrong_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ghost_det(monkeypatch) == ghost_det(monkeypatch, '--help') == 0
    printed = capsys.readouterr().out
    assert printed == f'{commands.usage()}\n' * 2 and all(len(line) <= 100 for line in printed.splitlines())
    assert ghost_det(monkeypatch, '--version') == 0
    assert capsys.readouterr().out.startswith('ghost-det 0.')
    assert ghost_det(monkeypatch, 'trian') == 2
    assert capsys.readouterr().err.startswith('error: trian: no such command; there are check-data,')
    assert ghost_det(monkeypatch, 'train', '--batch-size', '0') == 2
    assert capsys.readouterr().err.startswith('usage: ghost-det train [-h]')


@pytest.mark.parametrize(
    ('line', 'wanted'),
    [
        ('visualize redundancy C K --layer L I -o x.png', dict(model='C', checkpoint='K', image=Path('I'))),
        ('visualize cam C --index 2 I -o x.png', dict(model='C', checkpoint=None, image=Path('I'), index=2)),
        ('compare a -o x.html b', dict(runs=[Path('a'), Path('b')])),
        ('demo a --port 80 b', dict(models=['a', 'b'], port=80)),
        ('detect m --score .5 a -o x b', dict(model='m', sources=['a', 'b'], score=0.5)),
        ('detect -o x m -- -a b', dict(model='m', sources=['./-a', 'b'])),
        ('visualize pyramid C K -o x.png -- --i', dict(model='C', checkpoint='K', image=Path('--i'))),
        ('weights download a --source hub b', dict(names=['a', 'b'], source='hub')),
        ('test c --cfg-options a=1 --data d k', dict(config='c', checkpoint='k', data='d')),
    ],
)
def test_options_may_stand_between_the_words(line: str, wanted: dict[str, object]) -> None:
    name, *words = line.split()
    parser = import_module(f'ghost_det.commands.{name}').make_parser()
    assert vars(parser.parse_args(words)).items() >= wanted.items()


def test_too_few_and_too_many_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = import_module('ghost_det.commands.visualize').make_parser()
    for words, message in (('C', 'are required: IMAGE'), ('C K I more', 'unrecognized arguments: more')):
        with pytest.raises(SystemExit, match='2'):
            parser.parse_args(['cam', *words.split(), '-o', 'x.png'])
        assert message in capsys.readouterr().err


def test_a_config_that_is_not_there_is_told_before_data_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('ghost_det.data.dataset.find_splits', lambda *_: pytest.fail('data were looked for'))
    assert ghost_det(monkeypatch, 'train', 'nosuch', '--data', 'sample') == 2
    assert capsys.readouterr().err.startswith('error: nosuch: no such config file')


def test_configs_are_found_by_name_and_a_file_here_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = load_config(ROOT / f'configs/{LITE}.py')
    for name in (LITE, f'{LITE}.py', f'ghost_det::{LITE}', f'ghost_det::{LITE}.py'):
        assert load_config(name)._cfg_dict == whole._cfg_dict, name
    (tmp_path / f'{LITE}.py').write_text(f"_base_ = 'ghost_det::{LITE}.py'\nwork_dir = 'mine'\n")
    assert load_config(LITE).work_dir == 'mine' and load_config(f'ghost_det::{LITE}').get('work_dir') is None
    with pytest.raises(UserError, match=r'(?s)no such config.* there are faster-rcnn_ghostnet_fpn, gfl_'):
        load_config('retinanet')
    for name in ('_base_/runtime', 'ghost_det::../setup', 'ghost_det::/etc/passwd'):
        assert shipped.find(name) is None


def test_a_child_of_ours_is_read_and_mmengine_is_as_before(tmp_path: Path) -> None:
    before = vars(Config)['_get_cfg_path'].__func__
    (tmp_path / 'child.py').write_text(f"_base_ = 'ghost_det::{LITE}.py'\nrandomness = dict(seed=3)\n")
    cfg = load_config(tmp_path / 'child.py')
    assert cfg.model.backbone.type == 'GhostNet' and cfg.randomness.seed == 3
    assert vars(Config)['_get_cfg_path'].__func__ is before


def test_the_list_says_of_each_config_what_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ghost_det(monkeypatch, 'configs') == 0
    printed = capsys.readouterr().out
    readme = (ROOT / 'README.md').read_text()
    for path in CONFIGS:
        what, cost = shipped.purpose(path.stem)
        (row,) = (line for line in readme.splitlines() if line.startswith(f'| `configs/{path.name}`'))
        size, parameters, macs = (cell.strip() for cell in row.split('|')[2:5])
        assert cost == f'{parameters} M parameters, {macs} G multiply-adds at {size.replace("×", "x")}.'
        assert f'{path.stem}\n    {what}\n    {cost}\n' in printed


def test_a_config_of_ones_own_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ghost_det(monkeypatch, 'configs', LITE, '-o', 'mine.py') == 0
    first, second = (tmp_path / 'mine.py').read_text().splitlines()
    assert first.startswith('# RetinaNet with GhostNet') and second == f"_base_ = 'ghost_det::{LITE}.py'"
    assert load_config('mine')._cfg_dict == load_config(LITE)._cfg_dict
    assert ghost_det(monkeypatch, 'configs', LITE, '-o', 'mine.py') == 2
    assert 'exists; --force overwrites it' in capsys.readouterr().err
    assert ghost_det(monkeypatch, 'configs', '-o', 'mine.py') == 2
    assert 'expected the NAME to inherit from' in capsys.readouterr().err


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, '-m', 'ghost_det', '--version'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('ghost-det ')

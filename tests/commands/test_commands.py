"""The program ``ghost-det``, the options that commands share, and its configs."""

import argparse
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.torch_version import TorchVersion

from ghost_det import commands
from ghost_det.commands import _options, export
from ghost_det.config import shipped
from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from tests.conftest import CONFIGS, ROOT, Cli

LITE = 'retinanet_ghostnet_fpn_lite'


def test_each_command_is_listed_and_has_help(cli: Cli) -> None:
    names = [path.stem for path in (ROOT / 'ghost_det/commands').glob('[a-z]*.py')]
    assert {name.replace('_', '-') for name in names} == set(commands.COMMANDS)
    assert cli('').stdout == cli('--help').stdout == f'{commands.usage()}\n'
    for name in commands.COMMANDS:
        text = commands.make_parser(name).format_help()
        assert text.startswith(f'usage: ghost-det {name} ') and '--traceback' in text
        assert f'  {name} ' in commands.usage()
    assert all(len(line) <= 110 for line in commands.usage().splitlines())


@pytest.mark.parametrize('name', ['train', 'test', 'prepare_coco'])
def test_a_tool_is_the_command_of_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', [f'tools/{name}.py', '--help'])
    with pytest.raises(SystemExit, match='0'):
        runpy.run_path(str(ROOT / f'tools/{name}.py'), run_name='__main__')
    assert capsys.readouterr().out.startswith(f'usage: ghost-det {name.replace("_", "-")} ')


def test_python_m_is_the_command() -> None:
    words = [sys.executable, '-m', 'ghost_det', '--version']
    env = {**os.environ, 'GHOST_DET_RUNTIME': '1'}  # without torch, which takes seconds
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stdout.startswith('ghost-det 0.')


@pytest.mark.parametrize(
    ('parse', 'good', 'bad'),
    [
        (_options.positive_int, {'1': 1, '2147483647': 2**31 - 1}, '0 -1 1.5 nan x 2147483648'),
        (_options.positive_float, {'1e-9': 1e-9, '3': 3}, '0 -1 nan inf x'),
        (_options.fraction, {'0': 0, '1': 1, '.5': 0.5}, '-0.1 1.1 nan x'),
        (_options.inner_fraction, {'.5': 0.5}, '0 1 -1 2 nan x'),
    ],
)
def test_numbers_are_parsed_at_the_border(parse: object, good: dict[str, float], bad: str) -> None:
    assert callable(parse) and {text: parse(text) for text in good} == good
    for text in bad.split():
        with pytest.raises(argparse.ArgumentTypeError, match='expected'):
            parse(text)


def test_a_checkpoint_belongs_to_the_config_before_it() -> None:
    assert _options.pair_models(['a.xml', 'c.py', 'c.pth', 'd.py']) == {
        'a.xml': ('a.xml', None),
        'c.py c.pth': ('c.py', 'c.pth'),
        'd.py': ('d.py', None),
    }
    for words in (['c.pth'], ['a.xml', 'c.pth'], ['c.py', 'a.pth', 'b.pth'], ['a.xml', 'a.xml']):
        with pytest.raises(UserError, match='checkpoint|twice'):
            _options.pair_models(words)


def test_a_wrong_config_is_reported_before_data_is_generated(cli: Cli, tmp_path: Path) -> None:
    done = cli('train nosuch --data sample', cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / 'cache'))
    assert done.returncode == 2 and done.stderr.startswith('error: nosuch: no such config file')
    assert not list(tmp_path.iterdir())


def test_configs_are_found_by_name_and_a_local_file_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = vars(Config)['_get_cfg_path'].__func__
    complete = load_config(ROOT / f'configs/{LITE}.py')
    for name in (LITE, f'ghost_det::{LITE}.py'):
        assert load_config(name)._cfg_dict == complete._cfg_dict
    (tmp_path / f'{LITE}.py').write_text(f"_base_ = 'ghost_det::{LITE}.py'\nwork_dir = 'mine'\n")
    cfg = load_config(LITE)
    assert cfg.work_dir == 'mine' and cfg.model.backbone.type == 'GhostNet'
    assert load_config(f'ghost_det::{LITE}').get('work_dir') is None
    assert vars(Config)['_get_cfg_path'].__func__ is before  # mmengine is as before
    with pytest.raises(UserError, match='there are faster-rcnn_ghostnet_fpn, gfl_'):
        load_config('retinanet')
    for name in ('_base_/runtime', 'ghost_det::../setup', 'ghost_det::/etc/passwd'):
        assert shipped.find(name) is None


def test_listed_configs_have_the_figures_of_the_readme(cli: Cli) -> None:
    printed = cli('configs').stdout
    readme = (ROOT / 'README.md').read_text()
    for path in CONFIGS:
        what, cost = shipped.purpose(path.stem)
        assert f'{path.stem}\n    {what}\n    {cost}\n' in printed
        for row in (line for line in readme.splitlines() if line.startswith(f'| `configs/{path.name}`')):
            size, parameters, macs = (cell.strip() for cell in row.split('|')[2:5])
            assert cost == f'{parameters} M parameters, {macs} G multiply-adds at {size.replace("×", "x")}.'


def test_a_config_of_your_own_inherits(cli: Cli, tmp_path: Path) -> None:
    assert cli(f'configs {LITE} -o mine.py', cwd=tmp_path).returncode == 0
    first, second = (tmp_path / 'mine.py').read_text().splitlines()
    assert first.startswith('# RetinaNet with GhostNet') and second == f"_base_ = 'ghost_det::{LITE}.py'"
    done = cli(f'configs {LITE} -o mine.py', cwd=tmp_path)
    assert done.returncode == 2 and '--force' in done.stderr


def test_complexity_and_swap_print_what_they_count(cli: Cli, tmp_path: Path) -> None:
    head, *lines = cli(f'complexity {LITE} --size 64 64').stdout.splitlines()
    parts = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert 2 * parts['all'] == pytest.approx(sum(parts.values()), abs=0.02) and '64 x 64' in head
    words = f'swap {LITE} -o mine.py --backbone GhostNetV2:1.3 --size 64 64 --pretrained none'
    done = cli(words, cwd=tmp_path)
    assert done.returncode == 0 and 'GhostNetV2' in done.stdout
    assert load_config(tmp_path / 'mine.py').model.backbone.width == 1.3


def test_export_says_which_torch_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.1.2'))
    with pytest.raises(UserError, match='expected torch 2.6 or newer, got 2.1.2'):
        export.run(argparse.Namespace())

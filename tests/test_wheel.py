"""The wheel, installed in a venv of its own and used from another folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from functools import partial
from pathlib import Path

import pytest

from ghost_det.commands import COMMANDS
from tests.conftest import CONFIGS, ROOT

LITE = 'retinanet_ghostnet_fpn_lite'
ENV = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'} | {'OMP_NUM_THREADS': '1'}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as setuptools reuses what an earlier build left."""
    folder = tmp_path_factory.mktemp('source')
    for name in ('ghost_det', 'configs', 'tests', 'tools'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('ghost_det_main.py', 'pyproject.toml', 'setup.py', 'README.md', 'LICENSE', 'MANIFEST.in'):
        shutil.copy(ROOT / name, folder)
    offline = ['--no-deps', '--no-build-isolation', '--no-index', '--disable-pip-version-check']
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', *offline, '-w', 'dist', '.'], cwd=folder, check=True
    )
    (path,) = folder.glob('dist/*.whl')
    return path


@pytest.fixture(scope='module')
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a venv with the wheel, which sees the other packages of this venv, but not the clone."""
    folder = tmp_path_factory.mktemp('venv')
    venv.create(folder, symlinks=True)
    pip = [sys.executable, '-m', 'pip', '--python', folder / 'bin/python', '--disable-pip-version-check']
    subprocess.run([*pip, 'install', '-q', '--no-deps', '--no-index', wheel], check=True)
    (site,) = folder.glob('lib/python*/site-packages')
    seen = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
    (site / 'others.pth').write_text('\n'.join(seen))  # whose own .pth files, as a clone's, are not read
    return folder / 'bin'


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('place')


def run(bin_folder: Path, place: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bin_folder / 'python', *words], capture_output=True, text=True, cwd=place, env=ENV, timeout=300
    )


def ghost_det(bin_folder: Path, place: Path, *words: str | Path) -> str:
    done = run(bin_folder, place, bin_folder / 'ghost-det', *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_it_holds_the_configs_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'ghost_det/{path.relative_to(ROOT)}' for path in (ROOT / 'configs').rglob('*.py')} == {
        name for name in names if name.startswith('ghost_det/configs/')
    }
    modules = {f'{path.relative_to(ROOT)}' for path in (ROOT / 'ghost_det').rglob('*.py')}
    assert modules <= {*names} and 'ghost_det/py.typed' in names
    templates = {f'{path.relative_to(ROOT)}' for path in (ROOT / 'ghost_det').rglob('*.html.j2')}
    assert templates and templates <= {*names} and 'ghost_det/data/kinds.txt' in names
    assert {name.partition('/')[0].partition('-')[0] for name in names} == {'ghost_det', 'ghost_det_main.py'}


def test_an_environment_that_has_a_stack_gets_what_else_the_import_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith('.dist-info/METADATA')]
        lines = content.read(name).decode().splitlines()
    required = [line for line in lines if line.startswith('Requires-Dist: ') and ' extra' not in line]
    names = {
        re.split('[<>=]', line.removeprefix('Requires-Dist: '))[0].replace('-', '_') for line in required
    }
    assert names == {'huggingface_hub', 'safetensors', 'shtab'}


def test_help_imports_no_torch(bin_folder: Path, place: Path) -> None:
    printed = ghost_det(bin_folder, place, '--help')
    assert all(re.search(rf'^  {name} +\w', printed, re.MULTILINE) for name in COMMANDS)
    # Completion needs the parsers of all commands.
    done = run(bin_folder, place, '-X', 'importtime', bin_folder / 'ghost-det', 'completion', 'bash')
    assert done.returncode == 0
    assert all(re.search(rf'_shtab_ghost_det_subparsers=.*\b{name}\b', done.stdout) for name in COMMANDS)
    imported = {line.rpartition('|')[2].strip().partition('.')[0] for line in done.stderr.splitlines()}
    assert 'ghost_det' in imported and not imported & {'torch', 'mmengine', 'mmdet', 'cv2', 'numpy'}


def test_completion_knows_commands_options_and_configs(bin_folder: Path, place: Path) -> None:
    script = place / 'completion.bash'
    script.write_text(ghost_det(bin_folder, place, 'completion', 'bash'))
    for words, expected in (
        ('ghost-det tra', 'train'),
        ('ghost-det visualize cam gfl', 'gfl_ghostnet_ghostpan_lite'),
        ('ghost-det weights extract --pre', '--prefix'),
    ):
        *_, before, last = words.split()
        code = (
            f'source {script}; COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; '
            f'_shtab_ghost_det ghost-det {last} {before}; echo "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(['bash', '-c', code], capture_output=True, text=True)
        assert done.stdout.split() == [expected], done.stderr


def test_a_config_inherits_by_name_and_is_swapped(bin_folder: Path, place: Path) -> None:
    listed = ghost_det(bin_folder, place, 'configs')
    assert re.findall(r'^\w\S+', listed, re.MULTILINE) == [path.stem for path in CONFIGS]
    text = f"_base_ = 'ghost_det::{LITE}.py'\nmodel = dict(bbox_head=dict(stacked_convs=1))\n"
    (place / 'mine.py').write_text(text)
    words = ['--backbone', 'RepGhostNet:0.5', '-o', 'yours.py', '--size', '320', '320']
    assert 'before' in ghost_det(bin_folder, place, 'swap', 'mine', *words)
    assert "_base_ = 'mine.py'\n" in (place / 'yours.py').read_text()


def test_an_interrupt_at_the_start_is_no_traceback(bin_folder: Path, place: Path) -> None:
    # A shell's background jobs, as these tests may be, inherit that SIGINT is ignored.
    restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = [bin_folder / 'ghost-det', 'train', LITE, '--data', 'sample']
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, cwd=place, env=ENV, preexec_fn=restore
    ) as started:
        time.sleep(1)
        started.send_signal(signal.SIGINT)
        try:
            said = started.communicate(timeout=60)[1]
        finally:
            started.kill()
    assert said == 'interrupted\n' and started.returncode == 130

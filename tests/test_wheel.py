"""The wheel, installed in a venv of its own and used from another folder."""

from __future__ import annotations

import json
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


def run(bin_folder: Path, place: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [bin_folder / 'python', *words], capture_output=True, text=True, cwd=place, env=ENV, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def test_it_holds_the_package_with_its_configs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (metadata,) = [name for name in names if name.endswith('.dist-info/METADATA')]
        lines = content.read(metadata).decode().splitlines()
    assert {f'ghost_det/{path.relative_to(ROOT)}' for path in (ROOT / 'configs').rglob('*.py')} == {
        name for name in names if name.startswith('ghost_det/configs/')
    }
    package = [path for suffix in ('py', 'html.j2') for path in (ROOT / 'ghost_det').rglob(f'*.{suffix}')]
    assert {f'{path.relative_to(ROOT)}' for path in package} < {*names}
    weights = {f'{path.relative_to(ROOT)}' for path in (ROOT / 'ghost_det/weights/data').iterdir()}
    assert {'ghost_det/py.typed', 'ghost_det/data/kinds.txt', *weights} < {*names}
    assert {name.partition('/')[0].partition('-')[0] for name in names} == {'ghost_det', 'ghost_det_main.py'}
    # What an environment gets that has a stack already.
    needs = [re.match(r'Requires-Dist: ([\w-]+)', line) for line in lines if ' extra' not in line]
    light = {'huggingface_hub', 'jinja2', 'safetensors', 'shtab', 'tabulate'}
    assert {need[1] for need in needs if need} == light


@pytest.mark.parametrize(
    'installed',
    [
        'torch 2.0.1, torchvision 0.15.2, numpy 1.24.4, opencv-python 4.8.1.78, mmengine 0.7.4, mmcv 2.0.0, '
        'mmdet 3.0.0',
        'torch 2.1.2, torchvision 0.16.2, numpy 1.26.4, opencv-python 4.10.0.84, mmengine 0.10.7, '
        'mmcv 2.1.0, mmdet 3.3.0, huggingface-hub 0.23.0, tabulate 0.9.0, jinja2 3.1.2',
    ],
)
def test_without_an_extra_it_changes_no_package_of_an_environment(
    installed: str, wheel: Path, tmp_path: Path
) -> None:
    """As pip plans it for an environment with these packages, of which pip reads only the metadata."""
    venv.create(tmp_path / 'venv', symlinks=True)
    (site,) = tmp_path.glob('venv/lib/python*/site-packages')
    packages = dict(each.split() for each in installed.split(', '))
    for name, version in packages.items():
        folder = site / f'{name.replace("-", "_")}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    pip = [
        sys.executable,
        '-m',
        'pip',
        '--python',
        tmp_path / 'venv/bin/python',
        '--disable-pip-version-check',
    ]
    report = tmp_path / 'report.json'
    plan = [*pip, 'install', '-q', '--retries', '1', '--dry-run', '--report', report, wheel]
    done = subprocess.run(plan, capture_output=True, text=True)
    if 'NameResolutionError' in done.stderr or 'NewConnectionError' in done.stderr:
        pytest.skip('PyPI is not reachable')
    assert done.returncode == 0, done.stderr
    planned = {
        each['metadata']['name'].lower().replace('_', '-')
        for each in json.loads(report.read_text())['install']
    }
    assert {'ghost-det', 'safetensors', 'shtab'} <= planned and not planned & {*packages}
    assert not [name for name in planned if re.match('torch|numpy|mm|onedl|opencv|nvidia', name)]


def test_help_and_completion_import_no_torch(bin_folder: Path, tmp_path: Path) -> None:
    program = bin_folder / 'ghost-det'
    printed = run(bin_folder, tmp_path, program, '--help').stdout
    assert all(re.search(rf'^  {name} +\w', printed, re.MULTILINE) for name in COMMANDS)
    # Completion needs the parsers of all commands.
    done = run(bin_folder, tmp_path, '-X', 'importtime', program, 'completion', 'bash')
    imported = {line.rpartition('|')[2].strip().partition('.')[0] for line in done.stderr.splitlines()}
    assert 'ghost_det' in imported and not imported & {'torch', 'mmengine', 'mmdet', 'cv2', 'numpy'}
    code = f'{done.stdout}\nCOMP_WORDS=(ghost-det visualize cam faster); COMP_CWORD=3; '
    code += '_shtab_ghost_det ghost-det faster cam; echo "${COMPREPLY[@]}"'
    completed = subprocess.run(['bash', '-c', code], capture_output=True, text=True)
    assert completed.stdout == 'faster-rcnn_ghostnet_fpn\n', completed.stderr


def test_its_configs_are_listed_and_inherited_by_name(bin_folder: Path, tmp_path: Path) -> None:
    listed = run(bin_folder, tmp_path, bin_folder / 'ghost-det', 'configs').stdout
    assert re.findall(r'^\w\S+', listed, re.MULTILINE) == [path.stem for path in CONFIGS]
    (tmp_path / 'mine.py').write_text(f"_base_ = 'ghost_det::{LITE}.py'")
    code = "import os; os.environ['GHOST_DET_RUNTIME'] = '1'\n"  # does not import mmdet
    code += "from ghost_det.config.load import load_config; print(load_config('mine.py').model.type)"
    assert run(bin_folder, tmp_path, '-c', code).stdout.splitlines()[-1] == 'RetinaNet'


def test_an_interrupt_at_the_start_is_no_traceback(bin_folder: Path, tmp_path: Path) -> None:
    # A shell's background jobs, as these tests may be, inherit that SIGINT is ignored.
    restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = [bin_folder / 'ghost-det', 'train', LITE, '--data', 'sample']
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ENV, preexec_fn=restore
    ) as started:
        time.sleep(1)
        started.send_signal(signal.SIGINT)
        try:
            printed = started.communicate(timeout=60)[1]
        finally:
            started.kill()
    assert printed == 'interrupted\n' and started.returncode == 130

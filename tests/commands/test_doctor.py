"""The doctor, in virtual environments that are broken on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from ghost_det.commands import doctor
from ghost_det.commands.doctor import Finding
from tests.conftest import ROOT

OURS = Path(sysconfig.get_path('purelib'))


class Venv:
    """A venv that sees the packages of this one, except those whose names start with one of ``without``."""

    def __init__(self, folder: Path, without: tuple[str, ...] = ()) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / 'bin/python'
        (self.site,) = folder.glob('lib/python*/site-packages')
        for path in OURS.iterdir():
            if not path.name.startswith((*without, '__editable__')):
                (self.site / path.name).symlink_to(path)
        (self.site / 'clone.pth').write_text(f'{ROOT}\n')

    def examine(self) -> tuple[int, str]:
        """Run the doctor there; return its exit code and what it printed."""
        done = subprocess.run(
            [self.python, '-m', 'ghost_det_main', 'doctor'],
            capture_output=True,
            text=True,
            env={**os.environ, 'PYTHONPATH': ''},
        )
        assert 'Traceback' not in done.stderr, done.stderr
        return done.returncode, done.stdout


@pytest.mark.slow
def test_a_sound_installation(tmp_path: Path) -> None:
    code, printed = Venv(tmp_path / 'v').examine()
    assert code == 0, printed
    assert 'No problems found.' in printed and 'PROBLEM' not in printed
    assert "runs; mmcv's operators: " in printed


def test_an_installation_that_only_detects(tmp_path: Path) -> None:
    code, printed = Venv(tmp_path / 'v', without=('mm', 'onedl', 'torch')).examine()
    assert code == 0, printed
    assert 'ok  the runtime works' in printed
    code, printed = Venv(tmp_path / 'w', without=('mm', 'onedl', 'torch', 'tqdm')).examine()
    assert code == 1
    assert "the runtime does not work: ModuleNotFoundError: No module named 'tqdm'" in printed
    assert f'-e "{ROOT}[runtime]"' in printed


def test_compiled_operators_for_another_torch(tmp_path: Path) -> None:
    broken = Venv(tmp_path / 'v')
    (broken.site / 'mmcv').unlink()
    (broken.site / 'mmcv').mkdir()
    for path in (OURS / 'mmcv').iterdir():
        if not path.name.startswith('_ext.'):  # which would be written through the link
            (broken.site / 'mmcv' / path.name).symlink_to(path)
    (broken.site / f'mmcv/_ext{sysconfig.get_config_var("EXT_SUFFIX")}').write_bytes(b'\x7fELF')
    code, printed = broken.examine()
    assert code == 1
    assert "PROBLEM  the self-test fails: ImportError: mmcv's compiled operators do not load" in printed
    assert 'pip uninstall -y mmcv' in printed


@pytest.mark.parametrize(
    ('installed', 'what', 'fix'),
    [
        (['onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'], 'stack default: onedl-', None),
        (['mmengine', 'mmcv', 'mmdet'], 'stack official: ', None),
        (['mmengine', 'mmdet'], 'but not mmcv-lite', 'official'),
        (
            ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'mmdet'],
            'both stacks',
            'pip uninstall -y onedl',
        ),
        ([], 'neither stack', '[mm]'),
    ],
)
def test_stacks(installed: list[str], what: str, fix: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, 'versions', lambda names: {name: '1.0' for name in names if name in installed}
    )
    found = doctor._stack()
    assert what in found.what and (found.fix is None if fix is None else fix in str(found.fix))


def test_what_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, 'versions', lambda names: dict.fromkeys(names, '1.0'))
    for name, fix in (
        ('torch', 'torch==2.14.1'),
        ('torchvision', 'torchvision=='),
        ('cv2', 'opencv-python-headless'),
        ('pkg_resources', "'setuptools<81'"),
    ):

        def call(*words: str, name: str = name) -> tuple[bool, str]:
            return name != words[-1].partition(';')[0].split()[-1], f'no {name}'

        monkeypatch.setattr(doctor, '_call', call)
        (finding,) = [each for each in doctor.examine() if f': no {name}' in each.what]
        assert fix in str(finding.fix)


@pytest.mark.parametrize(
    ('available', 'driver', 'what', 'is_problem'),
    [
        ('True', '580.1', 'torch 2.14 can use a GPU', False),
        ('False', '470.1', 'driver 470.1', True),
        ('False', None, 'no GPU', False),
    ],
)
def test_gpus(
    available: str, driver: str | None, what: str, is_problem: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {'-c': (True, f'2.14 {available}'), '--query-gpu=driver_version': (driver is not None, driver)}
    monkeypatch.setattr(doctor, '_call', lambda *words: answers[words[1]])
    finding = doctor._gpu()
    assert what in finding.what and (finding.fix is not None) is is_problem


def test_problems_are_counted_and_shown_with_their_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, 'examine', lambda: iter([Finding('this'), Finding('that', 'do it')]))
    monkeypatch.setattr(sys, 'argv', ['ghost-det doctor'])
    with pytest.raises(SystemExit, match='1'):
        doctor.main()
    assert capsys.readouterr().out == '     ok  this\nPROBLEM  that\n         fix: do it\n1 problem found\n'

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
    """A venv that sees the packages of this one, but for those whose names begin as ``without`` says."""

    def __init__(self, folder: Path, without: tuple[str, ...] = ()) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / 'bin/python'
        (self.site,) = folder.glob('lib/python*/site-packages')
        for path in OURS.iterdir():
            if not path.name.startswith((*without, '__editable__')):
                (self.site / path.name).symlink_to(path)
        (self.site / 'clone.pth').write_text(f'{ROOT}\n')

    def package(self, name: str, version: str) -> None:
        """Lay a distribution over what is there."""
        folder = self.site / f'{name.replace("-", "_")}-{version}.dist-info'
        if folder.is_symlink():
            folder.unlink()
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')

    def module(self, name: str, code: str) -> None:
        """Put a package of one file in the place of another."""
        (self.site / name).unlink()
        (self.site / name).mkdir()
        (self.site / name / '__init__.py').write_text(code)

    def examine(self, **environment: str) -> tuple[int, str]:
        """Run the doctor there; return its exit code and what it printed."""
        done = subprocess.run(
            [self.python, '-m', 'ghost_det_main', 'doctor'],
            capture_output=True,
            text=True,
            env={**os.environ, 'PYTHONPATH': '', **environment},
        )
        assert 'Traceback' not in done.stderr, done.stderr
        return done.returncode, done.stdout


def test_a_sound_installation(tmp_path: Path) -> None:
    code, printed = Venv(tmp_path / 'v').examine()
    assert code == 0, printed
    assert 'No problems found.' in printed and 'PROBLEM' not in printed
    assert 'self-test: imported in' in printed and "mmcv's operators:" in printed


def test_no_stack_at_all(tmp_path: Path) -> None:
    code, printed = Venv(tmp_path / 'v', without=('mm', 'onedl')).examine()
    assert code == 1
    assert 'PROBLEM  neither stack is installed' in printed
    assert f'-m pip install -c {ROOT}/constraints/default.txt -e "{ROOT}[mm]"' in printed
    assert 'PROBLEM  the self-test fails: ImportError: ghost_det needs MMDetection' in printed


def test_an_installation_that_only_detects(tmp_path: Path) -> None:
    code, printed = Venv(tmp_path / 'v', without=('mm', 'onedl', 'torch')).examine()
    assert code == 0, printed
    assert 'ok  openvino' in printed and 'runs exported detectors; no torch' in printed
    code, printed = Venv(tmp_path / 'w', without=('mm', 'onedl', 'torch', 'tqdm')).examine()
    assert code == 1
    assert "PROBLEM  ghost_det.deploy does not load: ModuleNotFoundError: No module named 'tqdm'" in printed
    assert f'-e "{ROOT}[runtime]"' in printed


def test_two_stacks_one_over_the_other(tmp_path: Path) -> None:
    broken = Venv(tmp_path / 'v')
    if list(OURS.glob('onedl_mmengine-*')):
        broken.package('mmdet', '3.3.0')
    else:
        broken.package('onedl-mmdetection', '3.5.1')
    code, printed = broken.examine()
    assert code == 1
    assert 'PROBLEM  both stacks are installed, one over the other: onedl-mm' in printed
    assert 'pip uninstall -y onedl-mm' in printed and ' mmdet' in printed


def test_a_torchvision_for_another_torch(tmp_path: Path) -> None:
    broken = Venv(tmp_path / 'v')
    broken.module('torchvision', "raise RuntimeError('operator torchvision::nms does not exist')")
    code, printed = broken.examine()
    assert code == 1
    assert 'does not fit torch' in printed and 'operator torchvision::nms does not exist' in printed
    assert '--force-reinstall torch==2.14.1 torchvision==0.29.1' in printed
    assert 'self-test' not in printed


def test_compiled_operators_of_another_torch(tmp_path: Path) -> None:
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
    ('examine', 'said', 'what', 'fix'),
    [
        ('_opencv', 'ImportError: libGL.so.1: cannot open', 'libGL', 'opencv-python-headless'),
        ('_setuptools', '', 'has no pkg_resources', "'setuptools<81'"),
        ('_torch', 'OSError: libcudart.so: no such file', 'torch does not load', 'torch==2.14.1'),
    ],
)
def test_what_does_not_load(
    examine: str, said: str, what: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, '_run', lambda code: (False, said))
    monkeypatch.setattr(doctor, 'versions', lambda names: dict.fromkeys(names, '1.0'))
    found = getattr(doctor, examine)()
    (finding,) = [found] if isinstance(found, Finding) else found
    assert what in finding.what and finding.fix is not None and fix in finding.fix


@pytest.mark.parametrize(
    ('torch', 'driver', 'what', 'is_problem'),
    [
        ('13.0 True', '580.1', 'torch sees a GPU: CUDA 13.0, driver 580.1', False),
        ('13.0 False', '470.1', 'driver 470.1, but torch, built for CUDA 13.0, does not see it', True),
        (' False', '580.1', 'torch is built only for the CPU', True),
        ('13.0 False', None, 'no GPU', False),
    ],
)
def test_gpus_drivers_and_builds_of_torch(
    torch: str, driver: str | None, what: str, is_problem: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, '_run', lambda code: (True, torch))
    monkeypatch.setattr(doctor, '_driver', lambda: driver)
    (finding,) = doctor._torch()
    assert what in finding.what and (finding.fix is not None) is is_problem


def test_problems_are_counted_and_shown_with_what_fixes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, 'examine', lambda: iter([Finding('this'), Finding('that', 'do it')]))
    monkeypatch.setattr(sys, 'argv', ['ghost-det doctor'])
    with pytest.raises(SystemExit, match='1'):
        doctor.main()
    printed = capsys.readouterr().out
    assert printed == '     ok  this\nPROBLEM  that\n         fix: do it\n1 problem found\n'
    assert sys.executable in doctor.PIP

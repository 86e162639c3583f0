import re
from collections.abc import Callable

import pytest

from ghost_det.commands import doctor
from tests.conftest import ROOT, Cli

MM = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection')
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that makes the doctor find these distributions and no others, and imports that fail."""

    def install(*names: str, failing: str = 'nothing', **numbers: str) -> None:
        found = dict.fromkeys(names, '3.0') | {name.replace('_', '-'): n for name, n in numbers.items()}

        def call(*words: str) -> tuple[bool, str]:
            return failing not in words[-1] and words[0] != 'nvidia-smi', f'ModuleNotFoundError: {failing}'

        monkeypatch.setattr(
            doctor, 'versions', lambda asked: {name: found[name] for name in asked if name in found}
        )
        monkeypatch.setattr(doctor, '_call', call)

    return install


def test_an_installation_that_only_detects(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {'openvino': '1.0', 'onnxruntime': '1.0'}
    monkeypatch.setattr(
        doctor, 'versions', lambda names: {name: engines[name] for name in names if name in engines}
    )
    done = cli('doctor', GHOST_DET_RUNTIME='1')
    assert done.returncode == 0 and 'ok  the runtime works' in done.stdout, done.stdout
    assert 'No problems found.' in done.stdout and 'PROBLEM' not in done.stdout


@pytest.mark.parametrize(
    ('installed', 'what', 'fix'),
    [
        (MM, 'onedl-mmcv 3.0, onedl-mmdetection 3.0: should work', None),
        (('mmengine', 'mmcv', 'mmdet'), 'should work', None),
        (('mmengine', 'mmcv', 'mmcv-lite', 'mmdet'), 'two mmcv', 'pip uninstall -y mmcv-lite mmcv'),
        (('mmengine', 'mmdet'), 'but not mmcv-lite', 'official'),
        ((*MM, 'mmdet'), 'both stacks', 'pip uninstall -y onedl'),
        ((), 'neither stack', '[mm]'),
    ],
)
def test_stacks(installed: tuple[str, ...], what: str, fix: str | None, install: Install) -> None:
    install(*installed)
    found, advice = doctor._stack()
    assert what in found and (advice is None if fix is None else fix in str(advice))


LEGACY = dict(torch='2.1.2+cu121', mmengine='0.10.7', mmcv_lite='2.1.0', mmdet='3.3.0', numpy='1.26.4')


@pytest.mark.parametrize(
    ('changed', 'status'),
    [
        ({}, 'mmdet 3.3.0: tested'),
        ({'torch': '2.3.1'}, 'should work'),
        ({'mmcv_lite': '2.0.1'}, 'should work'),
        ({'numpy': '2.0.1'}, 'numpy 2.0.1 will not work: torch 2.1.2+cu121 was compiled for numpy 1'),
        ({'numpy': '2.0.1', 'torch': '2.3.1'}, 'should work'),
        ({'torch': '1.13.1'}, 'torch 1.13.1 will not work: ghost_det needs torch 2.0'),
        ({'mmdet': '2.28.2'}, 'mmdet 2.28.2 will not work: this is MMDetection 2'),
    ],
)
def test_combinations(changed: dict[str, str], status: str, install: Install, cli: Cli) -> None:
    install(**{**LEGACY, **changed})
    done = cli('doctor')
    assert status in done.stdout
    assert done.returncode == ('will not work' in status) == ('PROBLEM' in done.stdout)


def test_what_is_called_tested_is_in_the_docs() -> None:
    page = (ROOT / 'docs/environments.md').read_text()
    rows = [line.strip('| ').split(' | ') for line in page.splitlines() if re.search(r'\| works \|$', line)]
    documented = set()
    for _, torch, _, _, _, mmdet, _, mmcv, _ in rows:
        names = (f'torch {torch}', mmdet, mmcv.partition(',')[0])
        documented.add(tuple(re.sub(r'^(\S+ \d+\.\d+).*', r'\1', name) for name in names))
    assert {each for each in documented if 'none' not in each} == doctor.TESTED


def test_the_networks_need_no_mmdetection(install: Install, cli: Cli) -> None:
    install('torch', 'torchvision')
    done = cli('doctor')
    assert done.returncode == 0 and 'no MMDetection' in done.stdout and 'torchvision' not in done.stdout


def test_what_mmdet_itself_refuses(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(**LEGACY)
    error = 'AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.'
    monkeypatch.setattr(doctor, '_call', lambda *words: (False, error))
    what, fix = doctor._self_test('')
    assert error in what and fix == f"{doctor.PIP} install 'mmcv-lite>=2.0.0rc4, <2.2.0'"


@pytest.mark.parametrize(
    ('installed', 'failing', 'fix'),
    [
        (MM, 'import torch', 'torch=='),
        (MM, 'torchvision.nms', ' torchvision'),
        (MM, 'import cv2', 'opencv-python-headless'),
        (('mmengine', 'mmcv', 'mmdet'), 'import pkg_resources', "'setuptools<81'"),
        (MM, 'ensure_ops', f'-e "{ROOT}[mm]"'),
        (('onnxruntime',), 'onnxruntime', f'-e "{ROOT}[runtime]"'),
    ],
)
def test_what_cannot_be_imported(
    installed: tuple[str, ...], failing: str, fix: str, install: Install, cli: Cli
) -> None:
    install(*installed, failing=failing)
    done = cli('doctor')
    assert done.returncode == 1
    what, advice = done.stdout.partition('PROBLEM  ')[2].splitlines()[:2]
    assert 'ModuleNotFoundError' in what and fix in advice
    assert done.stdout.endswith(('1 problem found\n', '2 problems found\n'))


def test_compiled_operators_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    error = "ImportError: mmcv's compiled operators cannot be loaded"
    monkeypatch.setattr(doctor, '_call', lambda *words: (False, error))
    what, fix = doctor._self_test('')
    assert error in what and 'pip uninstall -y mmcv' in str(fix)


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
    found, fix = doctor._gpu()
    assert what in found and (fix is not None) is is_problem


def test_the_last_line_or_the_error_of_a_program_is_kept() -> None:
    assert doctor._call('sh', '-c', 'echo first; echo last') == (True, 'last')
    assert doctor._call('sh', '-c', 'echo ImportError: no x >&2; exit 1') == (False, 'ImportError: no x')
    works, output = doctor._call('sh', '-c', 'echo bad >&2; exit 3')
    assert not works and output == 'exit code 3: bad'
    assert not doctor._call('/no/such/program')[0]

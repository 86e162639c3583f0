from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import ghost_det  # noqa: F401  # before any test imports mmdet, which it makes importable

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))

torch.set_num_threads(1)


Cli = Callable[..., subprocess.CompletedProcess[str]]
"""Runs ``ghost-det`` with these words in the folder ``cwd``, with environment variables by keyword."""


def run_command(words: list[str]) -> int:
    """Run a command line in this process and return its exit code."""
    import ghost_det_main

    sys.argv = ['ghost-det', *words]
    try:
        ghost_det_main.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


@pytest.fixture
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A function that runs ``ghost-det`` in a fork of this process, which has imported everything.

    A process of its own takes 6 to 10 s for that. The fork keeps this process's loggers, registries,
    environment and folder as they are. The first word may be a complete command line.
    """

    def run(*words: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
        all_words = [*shlex.split(str(words[0])), *map(str, words[1:])]
        folder = tmp_path_factory.mktemp('cli')
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.setpgid(0, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(120)
                for number, name in ((1, 'stdout'), (2, 'stderr')):
                    os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
                sys.stdin = open(os.devnull)
                sys.stdout = open(1, 'w', buffering=1, closefd=False)
                sys.stderr = open(2, 'w', buffering=1, closefd=False)
                os.chdir(cwd)
                os.environ.update(env)
                code = run_command(all_words)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        out, err = ((folder / name).read_text(errors='replace') for name in ('stdout', 'stderr'))
        return subprocess.CompletedProcess(all_words, os.waitstatus_to_exitcode(status), out, err)

    return run


def leave_out(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes seconds of each training: formatted configs, collected garbage, flushed disks."""
    patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
    patch.setattr('gc.collect', lambda *_: 0)
    patch.setattr('os.fsync', lambda _: None)


@pytest.fixture
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of this test, those of `cli` among them, take less time."""
    leave_out(monkeypatch)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """Undo what a tool run in this process does to all the tests after it: loggers, and torch left out."""
    yield
    logging.disable(logging.NOTSET)
    os.environ.pop('GHOST_DET_RUNTIME', None)


@pytest.fixture(scope='session')
def coco_mini() -> Path:
    """A slice of real COCO 2017, which is not part of the project."""
    folder = Path(os.environ.get('GHOST_DET_COCO_MINI', ROOT.parent / 'shared/data/coco_mini'))
    if not folder.is_dir():
        pytest.skip(f'no COCO images in {folder}: GHOST_DET_COCO_MINI names the folder of some')
    return folder


@pytest.fixture(scope='session')
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set in COCO's layout."""
    from ghost_det.data.sample import make_sample

    return make_sample(tmp_path_factory.mktemp('cache'), train=8, val=4)


@pytest.fixture(autouse=True)
def without_earlier_logs() -> Iterator[None]:
    """Forget mmengine's logs and visualizers: they go by the second, in which the next test may begin."""
    yield
    if 'mmengine.logging' in sys.modules and 'mmdet.visualization' in sys.modules:
        from mmdet.visualization import DetLocalVisualizer
        from mmengine.logging import MessageHub, MMLogger

        for kind in (DetLocalVisualizer, MessageHub, MMLogger):
            kind._instance_dict.clear()


@pytest.fixture(scope='session')
def placeholders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    from ghost_det.config.load import load_config
    from ghost_det.swap.probe import build_detector
    from ghost_det.weights.zoo import classifier

    folder = tmp_path_factory.mktemp('shipped')
    cfg = load_config('gfl_ghostnet_ghostpan_lite', {'model.bbox_head.num_classes': 200})
    network = classifier('ghostnet_100', num_classes=200, head_channels=0)
    for name, model in (('gfl_ghostnet', build_detector(cfg.model)), ('ghostnet_100', network)):
        state = {key: value.clone() for key, value in model.half().state_dict().items()}
        save_file(state, folder / f'{name}.tin.safetensors')
    return folder


@pytest.fixture
def shipped(placeholders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files with random weights in the place of those that come with the package."""
    from ghost_det.utils.files import sha256
    from ghost_det.weights import catalog

    monkeypatch.setattr(catalog, 'DATA', placeholders)
    for name, entry in catalog.SHIPPED.items():
        monkeypatch.setitem(catalog.SHIPPED, name, replace(entry, sha256=sha256(entry.path)))
    return placeholders


class Training(NamedTuple):
    """Two epochs of the light RetinaNet on the sample, two steps each."""

    folder: Path
    printed: str
    runner: Any
    first: dict[str, Any]  # report.json after the first epoch


@pytest.fixture(scope='session')
def trained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A finished training; tests must not change its folder."""
    from ghost_det.data.dataset import find_data
    from ghost_det.engine.train import train
    from ghost_det.reports.training import ReportHook

    folder = tmp_path_factory.mktemp('trained')
    reports: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch)
        patch.setattr(
            ReportHook,
            'before_train_epoch',
            lambda hook, runner: reports.extend(path.read_text() for path in folder.glob('report.json')),
        )
        runner = train(
            str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'),
            find_data(sample),
            work_dir=str(folder),
            epochs=2,
            batch_size=4,
            pretrained='none',
            tensorboard=True,
            auto_scale_lr=True,
            options={
                'model.test_cfg.score_thr': 0.0,
                'default_hooks.logger.interval': 1,
                'train_dataloader.num_workers': 0,
                'val_dataloader.num_workers': 0,
            },
        )
    (log,) = folder.glob('*/*.log')
    return Training(folder, log.read_text(), runner, json.loads(reports[0]))

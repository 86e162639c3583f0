"""Trainings that are killed or stopped, and resumed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ghost_det.data.dataset import DetectionData
from ghost_det.engine import hooks
from ghost_det.engine.checkpoints import KeepingCheckpointHook, find_checkpoint
from ghost_det.engine.train import train
from ghost_det.errors import EXIT_INTERRUPTED, Interrupted
from ghost_det.evaluation.metric import FullCocoMetric
from ghost_det.weights.checkpoint import load_checkpoint
from tests.engine.conftest import TrainSmall
from tools import soak


class Killed(BaseException):
    """Ends a training at once, as nothing catches it."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in hooks.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


PLACES: dict[str, tuple[Any, str, int]] = {
    'after the best checkpoint is saved': (KeepingCheckpointHook, '_save_checkpoint_with_step', 2),
    'within a step': (torch.optim.Optimizer, 'zero_grad', 2),
    'while a checkpoint is written': (os, 'fsync', 1),
    'before the old checkpoint is removed': (KeepingCheckpointHook, '_remove', 1),
    'within an evaluation': (FullCocoMetric, 'process', 1),
}


@pytest.mark.parametrize('loop', ['epochs', pytest.param('iterations', marks=pytest.mark.slow)])
def test_a_training_killed_anywhere_ends_bit_identical(
    loop: str, train_small: TrainSmall, tmp_path: Path
) -> None:
    options: dict[str, Any] = {'optim_wrapper.accumulative_counts': 3}
    if loop == 'iterations':
        options |= {'train_cfg.max_iters': 8, 'train_cfg.val_interval': 2, 'train_dataloader.num_workers': 1}
    else:
        options |= {'train_cfg.max_epochs': 4}
    train_small('whole', loop, options=options)

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    for owner, name, number in PLACES.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, getattr(owner, name))
            soak.on_call(owner, name, number, kill)
            with pytest.raises(Killed):
                train_small('killed', loop, options=options, resume='auto')
    train_small('killed', loop, options=options, resume='auto')
    assert not soak.differences(soak.state(tmp_path / 'whole'), soak.state(tmp_path / 'killed'))
    assert not list((tmp_path / 'killed').glob('.partial*'))


def test_a_loop_of_iterations_resumes_in_a_later_pass_over_its_data(
    train_small: TrainSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two seconds between passes; not for all threads of the process, which would not rest then.
    monkeypatch.setattr('mmengine.runner.loops.time', SimpleNamespace(sleep=lambda _: None))
    options = {'train_dataloader.sampler.type': 'DefaultSampler', 'train_cfg.max_iters': 5}
    train_small('whole', 'iterations', options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Optimizer, 'zero_grad', torch.optim.Optimizer.zero_grad)
        soak.on_call(torch.optim.Optimizer, 'zero_grad', 3, send_sigterm)
        with pytest.raises(Interrupted, match='SIGTERM after step 3 of 5'):
            train_small('stopped', 'iterations', options=options)
    train_small('stopped', 'iterations', options=options, resume='auto')
    assert not soak.differences(soak.state(tmp_path / 'whole'), soak.state(tmp_path / 'stopped'))


def send_sigterm(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_an_evaluation_saves_the_state_before_it(train_small: TrainSmall, tmp_path: Path) -> None:
    options = {'default_hooks.checkpoint.interval': 2}
    train_small('whole', epochs=2, options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FullCocoMetric, 'process', FullCocoMetric.process)
        soak.on_call(FullCocoMetric, 'process', 1, send_sigterm)
        with pytest.raises(Interrupted, match='during the evaluation after step 2: saved .*interrupted.pth'):
            train_small('stopped', epochs=2, options=options)
    meta = load_checkpoint(tmp_path / 'stopped/interrupted.pth')['meta']
    assert (meta['iter'], meta['epoch'], meta['place']) == (2, 1, 0)
    train_small('stopped', epochs=2, options=options, resume='auto')
    assert not soak.differences(soak.state(tmp_path / 'whole'), soak.state(tmp_path / 'stopped'))
    assert not (tmp_path / 'stopped/interrupted.pth').exists()


@pytest.mark.slow
def test_real_signals(small_data: DetectionData, tmp_path: Path) -> None:
    config, work_dir, log = str(soak.make_config(tmp_path)), tmp_path / 'run', tmp_path / 'log'
    settings: dict[str, Any] = dict(data=small_data, work_dir=str(work_dir), epochs=500, resume='auto')

    def start_and_wait_for(name: str) -> int:
        process = soak.in_child(lambda: train(config, **settings), log)
        end = time.monotonic() + 120
        while not (work_dir / name).exists():
            assert os.waitpid(process, os.WNOHANG) == (0, 0) and time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        return process

    process = start_and_wait_for('epoch_1.pth')
    os.killpg(process, signal.SIGTERM)  # to its loader workers too, as a scheduler does
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    printed = log.read_text()
    assert code == EXIT_INTERRUPTED == 75, printed
    assert 'SIGTERM: stopping' in printed and 'Traceback' not in printed and 'interrupted: SIGTERM' in printed
    saved, damaged = find_checkpoint(str(work_dir), 'auto')
    assert saved and not damaged
    steps = saved.meta['iter']
    process = start_and_wait_for(f'epoch_{steps // 2 + 2}.pth')
    assert not (work_dir / 'interrupted.pth').exists()
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert f'--resume: resuming from {saved.path}, after {steps} steps' in log.read_text()
    newest, damaged = find_checkpoint(str(work_dir), 'auto')
    assert newest and newest.meta['iter'] > steps and not damaged

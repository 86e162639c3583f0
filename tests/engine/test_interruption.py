"""Trainings that are killed, stopped, led astray or left without space, and go on."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from ghost_det import InterruptHook, LossGuardHook, ProgressHook
from ghost_det.data.dataset import DetectionData, find_data
from ghost_det.engine import hooks
from ghost_det.engine.checkpoints import AtomicBackend, newest_checkpoint
from ghost_det.engine.loops import NumberedBatches, SeededImages, SeededIndex, seed_all
from ghost_det.engine.resume import PatientWorker
from ghost_det.engine.train import train
from ghost_det.errors import EXIT_INTERRUPTED, Interrupted, UserError
from ghost_det.evaluation.metric import FullCocoMetric
from ghost_det.reports import training as report
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tools import soak

# make soak: 100 kills.
KILLS = os.environ.get('GHOST_DET_KILLS', '6')


@pytest.fixture(scope='module')
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, DetectionData]:
    """A small training: its config and data."""
    folder = tmp_path_factory.mktemp('small')
    from ghost_det.data.sample import make_sample

    return str(soak.make_config(folder)), find_data(make_sample(folder, train=8, val=4))


@pytest.mark.slow
@pytest.mark.parametrize('loop', soak.CONFIGS)
def test_killed_trainings_end_to_the_bit_as_if_they_had_not_been(loop: str) -> None:
    kills = KILLS if loop == 'epochs' else str(max(2, int(KILLS) // 3))
    done = subprocess.run(
        [sys.executable, '-m', 'tools.soak', '--kills', kills, '--loop', loop],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
        timeout=60 * int(kills) + 120,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(done.stdout)
    print(report)
    assert report['kills'] == int(kills)
    assert report['trainings that ended bit-identical'] == report['trainings'] > 0


def test_what_is_drawn_follows_from_the_key_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_all(1, 2, 3)
    first = draw()
    other = draw()
    seed_all(1, 2, 3)
    assert draw() == first != other
    for key in ((1, 2, 4), (1, 2), (3, 2, 1)):
        seed_all(*key)
        assert not set(draw()) & set(first), key


class Noise:
    """A dataset whose images are random, as augmented ones are."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        assert type(index) is int
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


class Sampler:
    """Indices in another order in each epoch."""

    epoch = 0

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(self.epoch).permutation(10).tolist())

    def __len__(self) -> int:
        return 10


def epoch_of(epoch: int, start: int = 0, workers: int = 0, seed: int = 5) -> list[Any]:
    dataset: Any = Noise()
    dataset.__getitems__ = SeededImages(dataset)
    sampler = Sampler()
    sampler.epoch = epoch
    batches = NumberedBatches(sampler, 4, seed)
    batches.start = start
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=PatientWorker(None),
        collate_fn=list,
    )
    assert len(loader) == 3
    first = list(loader)
    if start:
        assert len(list(loader)) == 3  # what was left out is left out once
    return first


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_images_are_the_same_from_any_place_and_with_any_number_of_workers(workers: int) -> None:
    whole = epoch_of(1)
    assert [len(batch) for batch in whole] == [4, 4, 2]
    drawn = [value for batch in whole for image in batch for value in image[1:]]
    assert len(set(drawn)) == 30  # each image has numbers of its own
    for start in range(4):
        assert epoch_of(1, start, workers) == whole[start:]
    assert epoch_of(1, seed=6) != whole != epoch_of(2)


def test_a_sampler_that_draws_from_the_common_generators_is_repeated_too() -> None:
    class Drawn(Sampler):
        def __iter__(self) -> Iterator[int]:
            return (int(np.random.randint(1000)) for _ in range(10))

    whole = list(NumberedBatches(Drawn(), 4, 5))
    np.random.rand(3)
    again = NumberedBatches(Drawn(), 4, 5)
    again.start = 1
    assert list(again) == whole[1:] and len(set(sum(whole, []))) > 7


def test_a_turn_is_an_index_that_survives_the_way_to_a_worker() -> None:
    turn = pickle.loads(pickle.dumps(SeededIndex(7, (1, 2))))
    assert turn == 7 and turn.key == (1, 2) and [10, 11][SeededIndex(1)] == 11


def start_tool(small: tuple[str, DetectionData], work_dir: Path, *words: str) -> subprocess.Popen[str]:
    config, data = small
    folder = data.val.annotations.parents[1]
    return subprocess.Popen(
        [
            sys.executable,
            'tools/train.py',
            config,
            '--data',
            str(folder),
            '--work-dir',
            str(work_dir),
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_scheduler_s_signal_saves_and_the_training_goes_on(
    small: tuple[str, DetectionData], tmp_path: Path
) -> None:
    process = start_tool(small, tmp_path, '--epochs', '500')
    wait_for(tmp_path / 'epoch_1.pth', process)
    os.killpg(process.pid, signal.SIGTERM)  # to its loader workers too
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == EXIT_INTERRUPTED == 75, printed
    assert 'SIGTERM: stopping' in printed and 'Traceback' not in printed and 'interrupted: SIGTERM' in printed
    saved, faults = newest_checkpoint(str(tmp_path))
    assert saved and not faults
    source, steps = saved.path, saved.meta['iter']
    process = start_tool(small, tmp_path, '--resume', '--epochs', str(steps // 2 + 1))
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert f'--resume: resuming from {source}, after {steps} steps' in printed
    assert not (tmp_path / 'interrupted.pth').exists()


@pytest.mark.slow
def test_a_second_signal_ends_at_once(small: tuple[str, DetectionData], tmp_path: Path) -> None:
    process = start_tool(small, tmp_path, '--epochs', '500')
    wait_for(tmp_path / 'epoch_1.pth', process)
    os.kill(process.pid, signal.SIGSTOP)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert newest_checkpoint(str(tmp_path))[0]


def tell_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
    """Send this process SIGTERM at a call of this number."""
    function = getattr(owner, name)

    def tell(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, soak.on_call(function, number, tell))


@pytest.mark.slow
def test_a_signal_during_an_evaluation_loses_nothing_where_checkpoints_are_rarer(
    small: tuple[str, DetectionData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {'default_hooks.checkpoint.interval': 2}
    small_train(small, tmp_path / 'whole', epochs=2, options=options)
    tell_at(monkeypatch, FullCocoMetric, 'process', 1)
    with pytest.raises(Interrupted, match='during the evaluation after step 2: saved .*interrupted.pth'):
        small_train(small, tmp_path / 'told', epochs=2, options=options)
    meta = load_checkpoint(tmp_path / 'told/interrupted.pth')['meta']
    assert (meta['iter'], meta['epoch'], meta['place']) == (2, 1, 0)
    small_train(small, tmp_path / 'told', epochs=2, options=options, resume='auto')
    assert not soak.differences(soak.state(tmp_path / 'whole'), soak.state(tmp_path / 'told'))


def test_processes_with_unequal_shares_of_an_evaluation_agree_in_the_rounds_that_all_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    hook = InterruptHook()
    hook._before = {signal.SIGTERM: signal.SIG_DFL}
    monkeypatch.setattr(hook, '_agreed', lambda: asked.append(1))
    monkeypatch.setattr(hooks, 'all_gather_object', lambda number: [number, 2])
    runner = SimpleNamespace(val_dataloader=range(3))
    hook.before_val_epoch(runner)
    for index in range(3):
        hook.after_val_iter(runner, index)
    assert len(asked) == 2


def test_without_a_stderr_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'stderr', None)
    hook = ProgressHook()
    hook.before_train(SimpleNamespace(max_iters=2, iter=0))
    hook.after_train(None)


@pytest.mark.slow
def test_a_loop_of_iterations_goes_on_within_a_later_round_of_its_data(
    tmp_path: Path, small: tuple[str, DetectionData], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = str(soak.make_config(tmp_path, 'iterations')), small[1]
    options = {'train_dataloader.sampler.type': 'DefaultSampler', 'train_cfg.max_iters': 5}
    options |= {'train_dataloader.num_workers': 1}
    small_train(small, tmp_path / 'whole', options=options)
    tell_at(monkeypatch, BaseModel, 'train_step', 3)
    with pytest.raises(Interrupted, match='SIGTERM after step 3 of 5'):
        small_train(small, tmp_path / 'told', options=options)
    small_train(small, tmp_path / 'told', options=options, resume='auto')
    assert not soak.differences(soak.state(tmp_path / 'whole'), soak.state(tmp_path / 'told'))


def small_train(small: tuple[str, DetectionData], work_dir: Path, **settings: Any) -> Any:
    config, data = small
    options = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False}
    options |= {'optim_wrapper.accumulative_counts': 1}
    options.update(settings.pop('options', {}))
    return train(config, data=data, work_dir=str(work_dir), options=options, **settings)


def test_a_diverging_training_stops_and_names_its_images(
    small: tuple[str, DetectionData], tmp_path: Path
) -> None:
    schedule = dict(type='MultiStepLR', milestones=[1], gamma=1e12, by_epoch=True)
    options = {'param_scheduler': [schedule], 'train_cfg.max_epochs': 9, 'train_cfg.val_interval': 9}
    with pytest.raises(UserError) as caught:
        small_train(small, tmp_path, options=options)
    message = str(caught.value)
    print(message)
    assert re.search(
        r'the loss is \S+ at step \d+ \(epoch \d; loss_cls .*: the training has diverged', message
    )
    assert message.count('/train2017/') == 4 and 'load_from=' in message
    saved = newest_checkpoint(str(tmp_path))[0]
    assert saved is not None
    weights = saved.content['state_dict']
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_lost_network_is_not_saved(small: tuple[str, DetectionData], tmp_path: Path) -> None:
    runner = small_train(small, tmp_path, epochs=1)
    with torch.no_grad():
        next(runner.model.backbone.parameters()).fill_(float('nan'))
    with pytest.raises(UserError, match='1 of .* tensors of the network are NaN or infinite, backbone'):
        runner.save_checkpoint(str(tmp_path), 'epoch_2.pth')
    assert not (tmp_path / 'epoch_2.pth').exists() and (tmp_path / 'epoch_1.pth').exists()


class FakeRunner:
    """What a loss guard looks at."""

    iter, epoch, optim_wrapper = 41, 3, None


def guard(*losses: float, **settings: Any) -> None:
    hook = LossGuardHook(**settings)
    for loss in losses:
        outputs = {'loss': torch.tensor(loss), 'loss_cls': torch.tensor(loss)}
        sample = type('Sample', (), {'img_path': 'folder/image7.jpg'})
        hook.after_train_iter(FakeRunner(), 0, {'data_samples': [sample]}, outputs)


@pytest.mark.parametrize(
    'losses', [[1.0, float('nan')], [float('inf')], [1.0] * 30 + [1001.0], [0.01] * 20 + [11.0]]
)
def test_a_lost_loss_is_told(losses: list[float]) -> None:
    with pytest.raises(UserError, match=r'step 42 \(epoch 4; loss_cls .*folder/image7.jpg'):
        guard(*losses)


@pytest.mark.parametrize(
    'losses',
    [[1e9, 1.0, 1e9], [1.0] * 30 + [900.0, 1.0], [0.0] * 30 + [5.0], list(np.linspace(500, 0.1, 90))],
)
def test_a_high_loss_is_none(losses: list[float]) -> None:
    guard(*losses)
    guard(*[1.0] * 30, 1e6, factor=None)
    guard(1.0, float('nan'), 1.0, patience=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that one checkpoint fits on, but not two."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    done = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=220m', 'tmpfs', str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f'a small disk cannot be made here: {done.stderr.strip()}')
    yield folder
    subprocess.run(['umount', '-l', str(folder)])


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(
    small: tuple[str, DetectionData], small_disk: Path, tmp_path: Path
) -> None:
    small_train(small, small_disk, epochs=1)
    size = (small_disk / 'epoch_1.pth').stat().st_size
    free = shutil.disk_usage(small_disk).free
    (small_disk / 'filler').write_bytes(bytes(max(0, free - size // 2)))
    with pytest.raises(
        UserError, match=r'no space left on the disk for .*epoch_2.pth .* MB are needed.*--resume'
    ):
        small_train(small, small_disk, epochs=2, resume='auto')
    assert not list(small_disk.glob('.partial*')) and not (small_disk / 'epoch_2.pth').exists()
    assert newest(small_disk) == str(small_disk / 'epoch_1.pth')
    (small_disk / 'filler').unlink()
    for best in small_disk.glob('best_*'):
        best.unlink()
    small_train(small, small_disk, epochs=2, resume='auto')
    assert newest(small_disk) == str(small_disk / 'epoch_2.pth')


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'folder/x.pth'
    AtomicBackend().put(b'old', path)

    def full(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(UserError, match='no space left on the disk for .*x.pth'):
        AtomicBackend().put(b'new', path)
    assert path.read_bytes() == b'old' and [p.name for p in path.parent.iterdir()] == ['x.pth']


@pytest.mark.slow
def test_a_disk_that_is_full_when_the_pictures_are_drawn_is_told_and_stops_nothing(
    small: tuple[str, DetectionData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(report, 'draw_curves', full)
    small_train(small, tmp_path, epochs=1)
    (log,) = tmp_path.glob('*/*.log')
    assert 'curves could not be written: OSError: [Errno 28] No space left on device' in log.read_text()
    assert (tmp_path / 'report.json').exists()
    assert newest(tmp_path) == str(tmp_path / 'epoch_1.pth')


def newest(work_dir: Path) -> str | None:
    saved = newest_checkpoint(str(work_dir))[0]
    return saved and saved.path


def checkpoint_file(path: Path, step: int, **more: Any) -> None:
    meta = {'iter': step, 'epoch': 1, **more}
    torch.save({'meta': meta, 'state_dict': {'a': torch.rand(1000)}, 'optimizer': {}}, path)


def test_the_newest_checkpoint_checkpoint_is_found_whatever_else_there_is(tmp_path: Path) -> None:
    assert newest_checkpoint(str(tmp_path)) == (None, [])
    for step in (1, 2, 3, 4):
        checkpoint_file(tmp_path / f'epoch_{step}.pth', step)
    checkpoint_file(tmp_path / 'interrupted.pth', 5)
    os.utime(tmp_path / 'epoch_4.pth', (0, 0))  # a copied folder has dates of its own
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    (tmp_path / 'epoch_9.pth').mkdir()
    assert newest(tmp_path) == str(tmp_path / 'interrupted.pth')
    (tmp_path / 'interrupted.pth').unlink()
    assert newest(tmp_path) == str(tmp_path / 'epoch_4.pth')
    content = bytearray((tmp_path / 'epoch_4.pth').read_bytes())
    content[len(content) // 2] ^= 1  # which torch itself does not notice
    (tmp_path / 'epoch_4.pth').write_bytes(content)
    (tmp_path / 'epoch_3.pth').write_bytes((tmp_path / 'epoch_3.pth').read_bytes()[:-100])
    saved, faults = newest_checkpoint(str(tmp_path))
    assert saved and saved.path == str(tmp_path / 'epoch_2.pth')
    assert len(faults) == 3 and any('epoch_4.pth: damaged' in fault for fault in faults)


def test_a_training_started_later_is_gone_on_with_though_it_has_fewer_steps(
    tmp_path: Path,
) -> None:
    checkpoint_file(tmp_path / 'epoch_7.pth', 7)
    checkpoint_file(tmp_path / 'epoch_8.pth', 8, began=1)
    checkpoint_file(tmp_path / 'epoch_1.pth', 1, began=2)
    checkpoint_file(tmp_path / 'epoch_2.pth', 2, began=2)
    assert newest(tmp_path) == str(tmp_path / 'epoch_2.pth')


def logged(work_dir: Path) -> str:
    """Return the logs of a work folder; the console of a process that logged before is another's."""
    return ''.join(path.read_text() for path in work_dir.glob('*/*.log'))


@pytest.mark.slow
def test_a_training_begins_anew_or_goes_on(small: tuple[str, DetectionData], tmp_path: Path) -> None:
    def began() -> int:
        return int(load_checkpoint(tmp_path / 'epoch_1.pth')['meta']['began'])

    small_train(small, tmp_path, epochs=1)
    first = began()
    warned = 'checkpoints of an earlier training'
    assert 'Epoch(train)' in logged(tmp_path) and warned not in logged(tmp_path)
    small_train(small, tmp_path, epochs=1)
    assert began() > first and warned in logged(tmp_path)
    content = load_checkpoint(tmp_path / 'epoch_1.pth')
    content['param_schedulers'] = 7
    torch.save(content, tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match='the state in it is damaged, or of another optimizer or schedule'):
        small_train(small, tmp_path, epochs=2, resume='auto')


@pytest.mark.parametrize(
    'meta', [{'iter': '5'}, {'iter': -1}, {'epoch': 1.5}, {'place': [1]}, {'seed': 'x'}, {'epoch': None}]
)
def test_a_checkpoint_with_odd_numbers_is_damaged(meta: dict[str, Any], tmp_path: Path) -> None:
    checkpoint_file(tmp_path / 'epoch_3.pth', 3, **meta)
    saved, faults = newest_checkpoint(str(tmp_path))
    assert saved is None and f'damaged: its meta.{next(iter(meta))} is' in faults[0]


def test_no_state_of_a_training_is_no_new_beginning(small: tuple[str, DetectionData], tmp_path: Path) -> None:
    torch.save({'meta': {'iter': 1, 'epoch': 1}, 'state_dict': {}}, tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match='no checkpoint of .* is intact: .* holds only weights'):
        small_train(small, tmp_path, resume='auto')


def test_no_whole_checkpoint_is_no_new_beginning(small: tuple[str, DetectionData], tmp_path: Path) -> None:
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK half')
    with pytest.raises(UserError, match='no checkpoint of .* is intact: .*epoch_1.pth.*Remove them'):
        small_train(small, tmp_path, resume='auto')


@pytest.mark.slow
def test_another_batch_size_is_told_on_resuming(small: tuple[str, DetectionData], tmp_path: Path) -> None:
    small_train(small, tmp_path, epochs=1)
    small_train(small, tmp_path, epochs=2, batch_size=2, resume='auto')
    assert 'an epoch had 2 steps and has 4 now' in logged(tmp_path)


@pytest.mark.slow
def test_what_was_to_be_removed_is_removed_on_resuming_and_nothing_else(
    small: tuple[str, DetectionData], tmp_path: Path
) -> None:
    runner = small_train(small, tmp_path / 'run', epochs=1)
    path = tmp_path / 'run/epoch_1.pth'
    content = load_checkpoint(path)
    others = [tmp_path / 'other.pth', tmp_path / 'run/notes.txt', tmp_path / 'run/mine.pth']
    for other in others:
        other.touch()
    (tmp_path / 'run/epoch_0.pth').touch()
    hub = content['message_hub']['runtime_info']
    assert hub['keep_ckpt_ids'] == [1]
    # The best one as of a folder that was moved, or of a checkpoint that means harm.
    hub.update(keep_ckpt_ids=[0, 1], best_ckpt=str(others[0]), best_score=-2.0)
    torch.save(content, path)
    small_train(small, tmp_path / 'run', epochs=2, resume='auto')
    assert all(other.exists() for other in others) and not (tmp_path / 'run/epoch_0.pth').exists()
    assert sorted(p.name for p in (tmp_path / 'run').glob('epoch_*')) == ['epoch_2.pth']
    assert runner.iter == 2

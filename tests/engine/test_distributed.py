"""Several processes on CPUs, over gloo."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ghost_det.data.dataset import find_data
from ghost_det.data.sample import make_sample
from ghost_det.engine.distributed import (
    default_launcher,
    is_rank_zero,
    join,
    read_environment,
    require_same,
)
from ghost_det.engine.hooks import InterruptHook, MeanLossHook
from ghost_det.engine.test import test as evaluate
from ghost_det.engine.train import train
from ghost_det.errors import UserError
from tests.conftest import ROOT, run_command
from tests.engine.conftest import LITE

# A detector whose losses are normalised over all processes (RetinaNet's are not), and nothing random: a step
# of one process on four images and one of two processes on two each are the same.
CONFIG = f"""
_base_ = [{str(ROOT / LITE)!r}]
backend_args = None
model = dict(
    data_preprocessor=dict(batch_augments=None, pad_size_divisor=160),
    backbone=dict(init_cfg=None, frozen_stages=-1, width=0.5),
    neck=dict(in_channels=[12, 20, 56, 80]),
    bbox_head=dict(
        _delete_=True, type='ATSSHead', num_classes=6, in_channels=64, feat_channels=64, stacked_convs=1,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        _delete_=True, assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1
    ),
    test_cfg=dict(score_thr=0),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, batch_sampler=None,
    sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9))
param_scheduler = []
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(save_best=None))
randomness = dict(seed=0)
sync_bn = 'mmcv'
auto_scale_lr = dict(base_batch_size=4)
"""


def losses(work_dir: Path) -> list[float]:
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [row['loss'] for row in map(json.loads, log.read_text().splitlines()) if 'loss' in row]


def fork_two(work: Callable[..., Any], *args: Any) -> None:
    """Run a function in two processes with the variables of torchrun."""
    with socket.socket() as probe:
        probe.bind(('', 0))
        port = probe.getsockname()[1]

    def run(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', LOCAL_WORLD_SIZE='2')
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        work(rank, *args)

    processes = [multiprocessing.get_context('fork').Process(target=run, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0]


def train_rank(rank: int, words: list[str], folder: Path) -> None:
    for number in (1, 2):
        os.dup2(os.open(folder / f'{rank}.log', os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)
    sys.exit(run_command(words))


def test_two_processes_train_and_evaluate_as_one(
    sooner: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, two = tmp_path / 'small.py', tmp_path / 'two'
    config.write_text(CONFIG)
    folder = make_sample(tmp_path / 'data', train=8, val=5)
    val = folder / 'annotations/instances_val2017.json'
    content = json.loads(val.read_text())
    content['categories'].reverse()  # another order than in train
    val.write_text(json.dumps(content))
    words = ['train', config, '--data', folder, '--work-dir', two, '--launcher', 'pytorch']
    fork_two(train_rank, list(map(str, words)), tmp_path)
    printed = ''.join((tmp_path / f'{rank}.log').read_text() for rank in range(2))
    for line in ('6 classes: disc', 'Epoch(train) [3][2/2]', 'Saving checkpoint at 3', 'Done: '):
        assert printed.count(line) == 1, line  # by the first process only
    assert len(list(two.glob('*/vis_data'))) == 1 and not list(two.rglob('.partial*'))
    assert 'Grad strides' not in printed and 'FutureWarning' not in printed

    monkeypatch.setattr('ghost_det.engine.train.report_training', lambda *_: None)
    data = find_data(folder)
    train(str(config), data, batch_size=4, work_dir=str(tmp_path / 'one'))
    one = losses(tmp_path / 'one')
    assert len(one) == 6 and one[-1] < one[0]
    assert losses(two) == pytest.approx(one, rel=1e-4)
    first, second = (
        torch.load(tmp_path / f'{name}/epoch_3.pth', weights_only=False) for name in ('one', 'two')
    )
    for key, value in first['state_dict'].items():  # running statistics among them
        torch.testing.assert_close(second['state_dict'][key], value, rtol=1e-2, atol=1e-4, msg=key)

    figures = evaluate(str(config), str(two / 'epoch_3.pth'), data, work_dir=str(tmp_path / 'test'))
    found = dict(re.findall(r'(coco/bbox_\S+): ([\d.-]+)', printed))
    assert len(found) == 12 and any(float(figure) > 0 for figure in found.values())
    assert found == {name: f'{figures[name]:.4f}' for name in found}


def exchange(rank: int) -> None:
    read_environment('pytorch')
    assert is_rank_zero() is (rank == 0)
    join('pytorch', dict(backend='nccl', timeout=60))
    outputs = dict(loss=torch.tensor(float(rank)), loss_cls=torch.tensor(2.0 * rank))
    MeanLossHook().after_train_iter(None, 0, None, outputs)
    assert outputs == dict(loss=torch.tensor(0.5), loss_cls=torch.tensor(1.0)), outputs
    hook = InterruptHook()
    hook._signal = 15 * rank
    stopped: list[Any] = []
    hook._stop = lambda *_, **__: stopped.append(hook._signal)  # type: ignore[method-assign]
    hook.after_train_iter(SimpleNamespace(iter=1, max_iters=2), 0, None)
    assert stopped == [15]
    require_same('epoch_1.pth')
    with pytest.raises(UserError, match='has none: put --work-dir on a file system'):
        require_same('epoch_1.pth' if rank == 0 else None)


def test_two_processes_exchange_losses_signals_and_checks() -> None:
    fork_two(exchange)


TORCHRUN = {'RANK': '1', 'LOCAL_RANK': '1', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'a', 'MASTER_PORT': '1'}
SLURM = {'SLURM_PROCID': '3', 'SLURM_STEP_NUM_TASKS': '4'}


@pytest.mark.parametrize(
    ('launcher', 'variables', 'message'),
    [
        ('none', TORCHRUN, 'needs --launcher pytorch'),
        ('none', SLURM, 'needs --launcher slurm'),
        ('none', {}, None),
        ('none', {**SLURM, 'SLURM_STEP_NUM_TASKS': '1'}, None),
        ('none', {'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}, None),  # the one process of a batch script
        ('pytorch', TORCHRUN, None),
        ('slurm', SLURM, 'needs GPUs'),
        ('mpi', {}, 'needs GPUs'),
    ],
)
def test_what_a_launcher_has_set_is_checked(
    launcher: str, variables: dict[str, str], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(os, 'environ', variables)
    if message is None:
        read_environment(launcher)
    else:
        with pytest.raises(UserError, match=message):
            read_environment(launcher)


def test_ranks_are_known_before_processes_join(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables, is_first in (
        ({}, True),
        (SLURM, False),
        ({**SLURM, 'RANK': '0'}, True),
        (TORCHRUN, False),
    ):
        monkeypatch.setattr(os, 'environ', dict(variables))
        assert is_rank_zero() is is_first and default_launcher() == 'none'
    monkeypatch.setattr(os, 'environ', {'TORCHELASTIC_RUN_ID': 'x'})
    assert default_launcher() == 'pytorch'


@pytest.mark.parametrize('variables', [{}, {**TORCHRUN, 'WORLD_SIZE': 'abc'}])
def test_wrong_variables_are_an_error_of_the_user(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'environ', variables)
    with pytest.raises(UserError, match='cannot join the others'):
        join('pytorch')

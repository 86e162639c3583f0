from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ghost_det.engine.distributed import default_launcher, is_rank_zero, join, read_environment
from ghost_det.engine.hooks import MeanLossHook
from ghost_det.errors import UserError
from tests.conftest import ROOT

TORCHRUN = {'RANK': '1', 'LOCAL_RANK': '1', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'a', 'MASTER_PORT': '1'}
SLURM = {'SLURM_PROCID': '3', 'SLURM_NTASKS': '4', 'SLURM_LOCALID': '1', 'SLURM_NODELIST': 'a[1-2]'}
MPI = {f'OMPI_COMM_WORLD_{key}': '1' for key in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that nothing launched, with a ``scontrol`` that names two hosts."""
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text(
        '#!/bin/sh\n[ "$3" = "a[1-2]" ] && printf "a1\\na2\\n" || { echo unknown >&2; exit 1; }\n'
    )
    scontrol.chmod(0o755)
    variables = {'PATH': f'{tmp_path}:/usr/bin:/bin'}
    monkeypatch.setattr(os, 'environ', variables)
    return variables


@pytest.mark.parametrize(
    ('launcher', 'variables', 'message'),
    [
        ('none', TORCHRUN, 'torchrun started 2 processes, .* add --launcher pytorch'),
        ('none', {**SLURM, 'SLURM_STEP_NUM_TASKS': '4'}, 'srun started 4 .* add --launcher slurm'),
        ('pytorch', {}, '--launcher pytorch: RANK is not set: start it by torchrun'),
        ('pytorch', {'RANK': '0', 'WORLD_SIZE': '1'}, 'LOCAL_RANK is not set'),
        ('slurm', {}, 'SLURM_PROCID is not set: start it by srun'),
        ('slurm', {**SLURM, 'SLURM_NODELIST': 'b'}, 'scontrol show hostname b: unknown; or set MASTER_ADDR'),
        ('slurm', {**SLURM, 'PATH': ''}, 'no scontrol here'),
        ('mpi', {}, 'OMPI_COMM_WORLD_RANK is not set: start it by mpirun'),
        ('mpi', MPI, 'set MASTER_ADDR to the first host'),
    ],
)
def test_what_a_launcher_does_not_say_is_named(
    env: dict[str, str], launcher: str, variables: dict[str, str], message: str
) -> None:
    env.update(variables)
    with pytest.raises(UserError, match=message):
        read_environment(launcher)


def test_slurm_and_mpi_are_put_under_the_names_of_pytorch(env: dict[str, str]) -> None:
    env.update(SLURM, SLURM_STEP_TASKS_PER_NODE='2(x2),12')
    read_environment('slurm')
    found = [env[key] for key in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR')]
    assert found == ['3', '4', '1', '12', 'a1'] and env['MASTER_PORT'] == '29500'
    env.update(MPI)
    read_environment('mpi')
    assert env['RANK'] == env['LOCAL_WORLD_SIZE'] == '1' and env['MASTER_ADDR'] == 'a1'


def test_one_process_needs_no_launcher(env: dict[str, str]) -> None:
    for variables in ({}, {**SLURM}, {**TORCHRUN, 'WORLD_SIZE': '1'}):  # a batch script has Slurm's variables
        env.update(variables)
        read_environment('none')
    assert default_launcher() == 'none' and not is_rank_zero()
    env['TORCHELASTIC_RUN_ID'] = 'x'
    assert default_launcher() == 'pytorch'


def test_more_processes_than_gpus_are_told(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    env.update(TORCHRUN)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(UserError, match='this is process 2 on .*, which has 1 GPUs'):
        join('pytorch')


def test_losses_of_one_process_are_left_alone() -> None:
    outputs: dict[str, Any] = {'loss': torch.tensor(1.0), 'note': 'x'}
    MeanLossHook().after_train_iter(SimpleNamespace(), 0, outputs=outputs)
    assert outputs == {'loss': torch.tensor(1.0), 'note': 'x'}


TWO = """
import os, sys, time
from pathlib import Path
import torch
from torch import nn
from ghost_det.engine.hooks import MeanLossHook
from ghost_det.errors import UserError
from ghost_det.engine.distributed import first_on_host, join, require_same

rank = int(os.environ['RANK'])
join('pytorch', dict(backend='nccl', timeout=60))

outputs = dict(loss=torch.tensor(float(rank)), loss_cls=torch.tensor(2.0 * rank))
MeanLossHook().after_train_iter(None, 0, outputs=outputs)
assert outputs == dict(loss=torch.tensor(0.5), loss_cls=torch.tensor(1.0)), outputs

fetched = Path(sys.argv[1])
with first_on_host():
    if rank == 0:
        time.sleep(0.5)
        fetched.touch()
    assert fetched.exists()

require_same('epoch_1.pth', 'checkpoints', 'share them')
try:
    require_same('epoch_1.pth' if rank == 0 else None, 'checkpoints', 'share them')
except UserError as error:
    assert 'process 0 on ' in str(error) and 'has none: share them' in str(error), error
else:
    raise AssertionError('a difference went unseen')
"""


def test_two_processes_exchange_statistics_losses_and_findings(tmp_path: Path) -> None:
    script = tmp_path / 'two.py'
    script.write_text(TWO)
    kept = {key: value for key, value in os.environ.items() if key not in TORCHRUN}
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc-per-node=2',
            script,
            tmp_path / 'x',
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env={**kept, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr[-4000:]

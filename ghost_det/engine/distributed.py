"""Several processes: checking what their launcher has set, and joining them into one run."""

from __future__ import annotations

import atexit
import datetime
import os
import socket
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, init_dist, is_distributed

from ghost_det.errors import UserError, reason

_RANKS = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
_SIZES = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_STEP_NUM_TASKS'}
_STARTERS = {'pytorch': 'torchrun', 'slurm': 'srun', 'mpi': 'mpirun'}


def default_launcher() -> str:
    """Return ``'pytorch'`` in a process that torchrun started, else ``'none'``."""
    return 'pytorch' if 'TORCHELASTIC_RUN_ID' in os.environ else 'none'


def is_rank_zero() -> bool:
    """Return whether this is the first process of a run, also before the processes have joined."""
    return next((os.environ[key] for key in _RANKS.values() if key in os.environ), '0') == '0'


def read_environment(launcher: str) -> None:
    """Raise a `UserError` unless this process was started as its ``--launcher`` says."""
    env = os.environ
    if launcher == 'none':
        for right, size in _SIZES.items():
            if _RANKS[right] in env and env.get(size, '1') != '1':
                raise UserError(f'{size}={env[size]}: {_STARTERS[right]} needs --launcher {right}')
    elif launcher != 'pytorch' and not torch.cuda.is_available():
        raise UserError(f'--launcher {launcher}: needs GPUs; on CPUs, start with torchrun')


def join(launcher: str, dist_cfg: Mapping[str, Any] | None = None) -> None:
    """Join the processes of a run, with mmengine's launcher or, without a GPU, over gloo."""
    if launcher == 'none' or is_distributed():
        return
    settings = dict(dist_cfg or {})
    try:
        if get_device() == 'cpu':  # mmengine's launcher would set a CUDA device
            if 'timeout' in settings:
                settings['timeout'] = datetime.timedelta(seconds=settings['timeout'])
            torch.distributed.init_process_group(**{**settings, 'backend': 'gloo'})
            # Its threads may abort the process if they still run when the interpreter ends.
            atexit.register(_leave)
        else:
            init_dist(launcher, **settings)
    except (torch.distributed.DistError, KeyError, ValueError, RuntimeError) as error:
        rank, host, port = (os.environ.get(key) for key in ('RANK', 'MASTER_ADDR', 'MASTER_PORT'))
        raise UserError(
            f'--launcher {launcher}: process {rank} cannot join the others at {host}:{port}: '
            f'{reason(error)}; see docs/multi-node.md'
        ) from error


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def require_same(checkpoint: str | None) -> None:
    """Raise a `UserError` if processes resume differently, as hosts without a shared folder may."""
    found: list[tuple[str, str | None]] = all_gather_object((socket.gethostname(), checkpoint))
    for host, other in found:
        if other != found[0][1]:
            raise UserError(
                f'--resume: {found[0][0]} has the checkpoint {found[0][1] or "(none)"}, {host} has '
                f'{other or "none"}: put --work-dir on a file system that all hosts share'
            )

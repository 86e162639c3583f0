"""Many processes: what torchrun, Slurm and MPI tell each of them, and joining them into one training."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, barrier, get_world_size, init_dist, is_distributed

from ghost_det.errors import UserError

_SLURM = {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS', 'LOCAL_RANK': 'SLURM_LOCALID'}
_MPI = {
    'RANK': 'OMPI_COMM_WORLD_RANK',
    'WORLD_SIZE': 'OMPI_COMM_WORLD_SIZE',
    'LOCAL_RANK': 'OMPI_COMM_WORLD_LOCAL_RANK',
    'LOCAL_WORLD_SIZE': 'OMPI_COMM_WORLD_LOCAL_SIZE',
}
_PORT = '29500'  # PyTorch's own choice


def default_launcher() -> str:
    """Return ``'pytorch'`` in a process that torchrun started, else ``'none'``."""
    return 'pytorch' if 'TORCHELASTIC_RUN_ID' in os.environ else 'none'


def is_rank_zero() -> bool:
    """Tell whether this is the first of all processes, also before they have joined."""
    return os.environ.get('RANK', '0') == '0'


def read_environment(launcher: str) -> None:
    """Check what the launcher says of this process, and have it under PyTorch's names (``RANK``, ...)."""
    env = os.environ
    for key in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', *_SLURM.values(), *_MPI.values()):
        if not env.get(key, '0').isdecimal():
            raise UserError(
                f'{key}={env[key]}: expected a whole number in this variable, which launchers set; unset it'
            )
    if launcher == 'none':
        # Slurm sets SLURM_NTASKS and SLURM_PROCID for the one process of a batch script too.
        for starter, size, right in (
            ('torchrun', 'WORLD_SIZE', 'pytorch'),
            ('srun', 'SLURM_STEP_NUM_TASKS', 'slurm'),
        ):
            rank = 'RANK' if right == 'pytorch' else 'SLURM_PROCID'
            if rank in env and int(env.get(size, 1)) > 1:
                raise UserError(
                    f'{starter} started {env[size]} processes, and without --launcher each of them would '
                    f'train on its own, all into one work folder: add --launcher {right}'
                )
    elif launcher == 'pytorch':
        absent = [key for key in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR') if key not in env]
        if absent:
            raise UserError(
                f'--launcher pytorch: {absent[0]} is not set: start it by torchrun, as '
                f'torchrun --nproc-per-node=2 --no-python ghost-det train CONFIG'
            )
    elif launcher == 'slurm':
        _rename('slurm', _SLURM, 'start it by srun, in a job of Slurm')
        env.setdefault('LOCAL_WORLD_SIZE', _tasks_here(env))
        env.setdefault('MASTER_PORT', _PORT)
        if 'MASTER_ADDR' not in env:
            env['MASTER_ADDR'] = _first_host(env.get('SLURM_STEP_NODELIST') or env.get('SLURM_NODELIST', ''))
    else:
        _rename('mpi', _MPI, 'start it by mpirun of Open MPI')
        env.setdefault('MASTER_PORT', _PORT)
        if 'MASTER_ADDR' not in env:
            raise UserError('--launcher mpi: set MASTER_ADDR to the first host, as mpirun -x MASTER_ADDR=...')


def _rename(launcher: str, names: Mapping[str, str], advice: str) -> None:
    for name, theirs in names.items():
        if theirs not in os.environ:
            raise UserError(f'--launcher {launcher}: {theirs} is not set: {advice}')
        os.environ[name] = os.environ[theirs]


def _tasks_here(env: Mapping[str, str]) -> str:
    """Return the tasks on a host; Slurm writes ``4(x2),3`` for hosts with 4, 4 and 3: the most is taken."""
    listing = env.get('SLURM_STEP_TASKS_PER_NODE') or env.get('SLURM_TASKS_PER_NODE') or '1'
    return str(max(int(part) for part in re.findall(r'(?:^|,)(\d+)', listing)))


def _first_host(hosts: str) -> str:
    if shutil.which('scontrol') is None:
        raise UserError('--launcher slurm: no scontrol here to name the first host: set MASTER_ADDR to it')
    done = subprocess.run(['scontrol', 'show', 'hostname', hosts], capture_output=True, text=True)
    if done.returncode or not done.stdout.split():
        problem = done.stderr.strip() or 'it names none'
        raise UserError(f'--launcher slurm: scontrol show hostname {hosts}: {problem}; or set MASTER_ADDR')
    return done.stdout.split()[0]


def join(launcher: str, dist_cfg: Mapping[str, Any] | None = None) -> None:
    """Join the processes of a run into one group: by mmengine's launcher, or, without a GPU, over gloo."""
    read_environment(launcher)
    if launcher == 'none' or is_distributed():
        return
    settings = dict(dist_cfg or {})
    here, gpus = int(os.environ['LOCAL_RANK']), torch.cuda.device_count()
    if torch.cuda.is_available() and here >= gpus:
        raise UserError(
            f'--launcher {launcher}: this is process {here + 1} on {socket.gethostname()}, which has {gpus} '
            'GPUs to use (CUDA_VISIBLE_DEVICES): start one process for each GPU'
        )
    try:
        if get_device() == 'cpu':  # mmengine's launcher asks for a CUDA device in any case
            if 'timeout' in settings:
                settings['timeout'] = datetime.timedelta(seconds=settings['timeout'])
            torch.distributed.init_process_group(**{**settings, 'backend': 'gloo'})
            # Its threads, running still when the interpreter ends, may abort the process.
            atexit.register(_leave)
        else:
            init_dist(launcher, **settings)
    except (torch.distributed.DistError, ValueError, RuntimeError) as error:
        rank, host, port = (os.environ.get(key) for key in ('RANK', 'MASTER_ADDR', 'MASTER_PORT'))
        raise UserError(
            f'--launcher {launcher}: process {rank} cannot join the others at {host}:{port}: {error}'
        ) from error


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def first_on_host() -> Iterator[None]:
    """Run a block in the first process of each host, then in the others, which find what that one fetched."""
    waits = get_world_size() > 1
    leads = int(os.environ.get('LOCAL_RANK', 0)) == 0
    if waits and not leads:
        barrier()
    try:
        yield
    finally:
        if waits and leads:
            barrier()


def require_same(value: str | None, what: str, advice: str) -> None:
    """Stop where processes differ in what they found, as hosts without a shared file system may."""
    found: list[tuple[str, str | None]] = all_gather_object((socket.gethostname(), value))
    for rank, (host, other) in enumerate(found):
        if other != found[0][1]:
            raise UserError(
                f'{what}: process 0 on {found[0][0]} has {found[0][1] or "none"}, process {rank} on {host} '
                f'has {other or "none"}: {advice}'
            )

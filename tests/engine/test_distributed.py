"""Trainings and evaluations of several processes, started as a user starts them, on CPUs over gloo."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

TORCHRUN = (sys.executable, '-m', 'torch.distributed.run')
LAUNCHERS = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_', 'TORCHELASTIC', 'SLURM_', 'OMPI_', 'GLOO_')

# A detector whose losses are normalised over all processes (RetinaNet's are not), and nothing random, so
# that a step of one process on four images and one of two processes on two each are the same.
CONFIG = """
_base_ = [{base!r}]
backend_args = None
model = dict(
    data_preprocessor=dict(batch_augments=None, pad_size_divisor=160),
    backbone=dict(init_cfg=None, frozen_stages=-1),
    bbox_head=dict(
        _delete_=True,
        type='ATSSHead',
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
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
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline),
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


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('config') / 'small.py'
    path.write_text(CONFIG.format(base=str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')))
    return path


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for eight images to train on and five to evaluate, with classes in another order in these."""
    from ghost_det.data.sample import make_sample

    folder = make_sample(tmp_path_factory.mktemp('data'), train=8, val=5)
    val = folder / 'annotations/instances_val2017.json'
    content = json.loads(val.read_text())
    content['categories'].reverse()
    val.write_text(json.dumps(content))
    return ['--data', str(folder)]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
    return {**kept, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), **more}


def run(*words: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """Run a command to its end and return all that it printed."""
    done = subprocess.run(
        list(map(str, words)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        timeout=300,
        env=environment(**env),
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def tool(name: str) -> str:
    return str(ROOT / f'tools/{name}.py')


def losses(work_dir: Path) -> list[float]:
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [row['loss'] for row in map(json.loads, log.read_text().splitlines()) if 'loss' in row]


def figures(printed: str) -> list[str]:
    return re.findall(r'coco/bbox_\S+: [\d.-]+', printed)


@pytest.fixture(scope='module')
def pair(config: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work folder of a training by two processes, and what they printed."""
    folder = tmp_path_factory.mktemp('pair')
    words = [*TORCHRUN, '--standalone', '--nproc-per-node=2', tool('train'), config, *data]
    return folder, run(*words, '--work-dir', folder)


@pytest.mark.slow
def test_two_processes_train_as_one(
    config: Path, data: list[str], pair: tuple[Path, str], tmp_path: Path
) -> None:
    run(sys.executable, tool('train'), config, *data, '--batch-size', '4', '--work-dir', tmp_path)
    one, two = losses(tmp_path), losses(pair[0])
    assert len(one) == 6 and one[-1] < one[0]
    assert two == pytest.approx(one, rel=1e-4)
    weights, others = (
        torch.load(folder / 'epoch_3.pth', weights_only=False)['state_dict'] for folder in (tmp_path, pair[0])
    )
    assert weights.keys() == others.keys()
    for key, value in weights.items():  # running statistics among them
        torch.testing.assert_close(others[key], value, rtol=1e-2, atol=1e-4, msg=key)


def test_the_first_process_alone_speaks_and_writes(pair: tuple[Path, str]) -> None:
    folder, printed = pair
    for line in ('6 classes: disc', 'Epoch(train) [3][2/2]', 'Saving checkpoint at 3', 'Done: '):
        assert printed.count(line) == 1, line
    assert len(list(folder.glob('*/vis_data'))) == 1 and (folder / 'curves.png').exists()
    assert not list(folder.rglob('.partial*')) and not (ROOT / '.dist_test').exists()
    assert 'Grad strides' not in printed and 'FutureWarning' not in printed


@pytest.mark.slow
def test_an_evaluation_by_two_processes_gives_the_figures_of_one(
    config: Path, data: list[str], pair: tuple[Path, str], tmp_path: Path
) -> None:
    folder, printed = pair
    words = [tool('test'), config, folder / 'epoch_3.pth', *data]
    alone = figures(run(sys.executable, *words, '--work-dir', tmp_path / 'one'))
    assert len(alone) == 12 and any(float(figure.split()[1]) > 0 for figure in alone)
    assert figures(printed) == alone
    # By Slurm's variables, with a stand-in for the program that names the hosts of a job.
    (tmp_path / 'scontrol').write_text('#!/bin/sh\necho localhost\necho other\n')
    (tmp_path / 'scontrol').chmod(0o755)
    port = str(free_port())
    kept = ['--work-dir', tmp_path / 'two', '--json', tmp_path / 'two.json', '--out', tmp_path / 'out.json']
    tasks = [
        subprocess.Popen(
            [sys.executable, *map(str, [*words, *kept]), '--launcher', 'slurm'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(
                PATH=f'{tmp_path}:{os.environ["PATH"]}',
                MASTER_PORT=port,
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                SLURM_NTASKS='2',
                SLURM_NODELIST='localhost',
                SLURM_STEP_NUM_TASKS='2',
                SLURM_STEP_TASKS_PER_NODE='2',
            ),
        )
        for rank in range(2)
    ]
    first, second = (task.communicate(timeout=200)[0] for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], first + second
    assert figures(first) == alone and not figures(second)
    counts = json.loads((tmp_path / 'two.json').read_text())['metrics']['bbox']['counts']
    assert counts['detections'] == len(json.loads((tmp_path / 'out.json').read_text())) > 0
    assert 'pr_curves.png' in first and 'pr_curves.png' not in second
    assert not list(tmp_path.rglob('.partial*'))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('', 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    found = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [int(child) for child in found]


def worker(agent: int, rank: int) -> int | None:
    """Return the process that torchrun (or a wrapper around it) has for a rank, if it is up."""
    todo = [agent]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            variables = Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
            if f'RANK={rank}'.encode() in variables:
                return pid
            todo += children(pid)
    return None


def wait_for(path: Path, agents: list[subprocess.Popen[Any]], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end and all(agent.poll() is None for agent in agents), f'no {path}'
        time.sleep(0.05)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    return False


@contextlib.contextmanager
def started(*words: str | Path, log: Path, cwd: Path = ROOT, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command whose output goes to a file; at the end it and its children are ended."""
    with log.open('wb') as out:
        process = subprocess.Popen(
            list(map(str, words)), stdout=out, stderr=out, cwd=cwd, env=environment(**env), process_group=0
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # torchrun ends its workers, which are no longer of its group
                process.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='processes are found in /proc')
def test_a_killed_process_ends_the_training_and_it_resumes(
    config: Path, data: list[str], tmp_path: Path
) -> None:
    words = [*TORCHRUN, '--standalone', '--nproc-per-node=2', tool('train'), config, *data]
    words += ['--work-dir', str(tmp_path / 'run')]
    with started(*words, '--epochs', '200', log=tmp_path / 'log') as agent:
        wait_for(tmp_path / 'run/epoch_2.pth', [agent])
        pids = [worker(agent.pid, rank) for rank in (0, 1)]
        assert pids[0] and pids[1]
        os.kill(pids[1], signal.SIGKILL)
        killed = time.monotonic()
        assert agent.wait(60) != 0
        print(f'ended {time.monotonic() - killed:.1f} s after the kill')
    assert not alive(pids[0]) and not alive(pids[1])
    epoch = int((tmp_path / 'run/last_checkpoint').read_text().rpartition('_')[2].removesuffix('.pth'))
    printed = run(*words, '--resume', '--epochs', str(epoch + 1))
    assert f'resumed epoch: {epoch}' in printed and len(figures(printed)) == 12
    assert (tmp_path / f'run/epoch_{epoch + 1}.pth').exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='processes are found in /proc')
def test_processes_told_to_stop_do_so_after_the_same_step(
    config: Path, data: list[str], tmp_path: Path
) -> None:
    words = [*TORCHRUN, '--standalone', '--nproc-per-node=2', tool('train'), config, *data]
    words += ['--work-dir', str(tmp_path / 'run')]
    with started(*words, '--epochs', '200', log=tmp_path / 'log') as agent:
        wait_for(tmp_path / 'run/epoch_1.pth', [agent])
        second = worker(agent.pid, 1)
        assert second
        os.kill(second, signal.SIGTERM)  # one is told; the other learns it from it
        assert agent.wait(60) != 0
    printed = (tmp_path / 'log').read_text()
    assert printed.count('SIGTERM: stopping') == 1 and 'exitcode  : 75' in printed
    saved = torch.load(tmp_path / 'run/interrupted.pth', weights_only=False)['meta']
    assert saved['iter'] == 2 * saved['epoch'] + saved['place'] >= 2
    printed = run(*words, '--resume', '--epochs', str(saved['epoch'] + 1))
    assert f'interrupted.pth, after {saved["iter"]} steps' in printed and len(figures(printed)) == 12
    assert not (tmp_path / 'run/interrupted.pth').exists()


@pytest.fixture
def hosts() -> Iterator[list[list[str]]]:
    """Words that run a command on one of two hosts: network namespaces joined by a virtual cable."""
    if shutil.which('ip') is None or os.geteuid() != 0:
        pytest.skip('network namespaces are made by the ip of iproute2, as root')
    names = [f'ghost{os.getpid()}{side}' for side in 'ab']
    pair = [f'g{os.getpid()}{side}' for side in 'ab']

    def ip(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(['ip', *words], capture_output=True, text=True)

    try:
        made = [ip('netns', 'add', name) for name in names]
        made.append(ip('link', 'add', pair[0], 'type', 'veth', 'peer', 'name', pair[1]))
        for number, (name, link) in enumerate(zip(names, pair), start=1):
            made += [
                ip('link', 'set', link, 'netns', name),
                ip('-n', name, 'link', 'set', link, 'name', 'cable'),
                ip('-n', name, 'addr', 'add', f'10.77.0.{number}/24', 'dev', 'cable'),
                ip('-n', name, 'link', 'set', 'cable', 'up'),
                ip('-n', name, 'link', 'set', 'lo', 'up'),
            ]
        fault = next((step.stderr for step in made if step.returncode), None)
        if fault:
            pytest.skip(f'network namespaces cannot be made here: {fault.strip()}')
        yield [['ip', 'netns', 'exec', name] for name in names]
    finally:
        for name in names:
            ip('netns', 'del', name)


@pytest.mark.slow
def test_two_hosts_by_static_rendezvous(
    config: Path, data: list[str], pair: tuple[Path, str], hosts: list[list[str]], tmp_path: Path
) -> None:
    """Each host has its own folders: nothing but the network joins them."""
    agents = []
    with contextlib.ExitStack() as stack:
        for rank, host in enumerate(hosts):
            (tmp_path / str(rank)).mkdir()
            words = [*host, *TORCHRUN, '--nnodes=2', f'--node-rank={rank}', '--nproc-per-node=1']
            words += ['--master-addr=10.77.0.1', '--master-port=29511', tool('test'), str(config)]
            words += [str(pair[0] / 'epoch_3.pth'), *data, '--work-dir', 'work']
            log, cwd = tmp_path / f'{rank}.log', tmp_path / str(rank)
            agents.append(stack.enter_context(started(*words, log=log, cwd=cwd, GLOO_SOCKET_IFNAME='cable')))
        codes = [agent.wait(120) for agent in agents]
    first, second = ((tmp_path / f'{rank}.log').read_text() for rank in (0, 1))
    assert codes == [0, 0], first + second
    assert figures(first) == figures(pair[1]) and not figures(second)


@pytest.mark.slow
def test_an_elastic_training_on_two_hosts_goes_on_after_a_loss(
    config: Path, data: list[str], hosts: list[list[str]], tmp_path: Path
) -> None:
    agents = []
    with contextlib.ExitStack() as stack:
        for rank, host in enumerate(hosts):
            words = [*host, *TORCHRUN, '--nnodes=2', '--nproc-per-node=1', '--max-restarts=1']
            words += ['--rdzv-backend=c10d', '--rdzv-endpoint=10.77.0.1:29512', '--rdzv-id=test']
            # The first could tell by its own name, if that led to the address.
            words += [f'--rdzv-conf=is_host={rank == 0}']
            words += [f'--local-addr=10.77.0.{rank + 1}', tool('train'), str(config), *data, '--resume']
            words += ['--epochs', '6', '--work-dir', str(tmp_path / 'run')]
            log = tmp_path / f'{rank}.log'
            env = {
                'GLOO_SOCKET_IFNAME': 'cable',
                'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1',
            }  # docs/multi-node.md
            agents.append(stack.enter_context(started(*words, log=log, **env)))
        wait_for(tmp_path / 'run/epoch_1.pth', agents)
        lost = worker(agents[1].pid, 0) or worker(agents[1].pid, 1)
        assert lost is not None
        os.kill(lost, signal.SIGKILL)
        codes = [agent.wait(120) for agent in agents]
    printed = ''.join((tmp_path / f'{rank}.log').read_text() for rank in (0, 1))
    assert codes == [0, 0], printed
    assert re.search(r'resumed epoch: [1-5]\b', printed) and len(figures(printed)) >= 12
    assert (tmp_path / 'run/epoch_6.pth').exists()

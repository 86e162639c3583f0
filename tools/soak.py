"""Kills a small training again and again, and compares its end with that of one that was never killed.

    python -m tools.soak --kills 100

Each kill is a SIGKILL of a process: at a random moment, within a training step (after its backward pass),
while a checkpoint is written (half of it, or all of it but the old one is not removed yet), or within an
evaluation; or a SIGTERM to all its processes. Processes are forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ghost_det.data.dataset import find_data
from ghost_det.data.sample import make_sample
from ghost_det.engine.checkpoints import KeepingCheckpointHook
from ghost_det.engine.train import train
from ghost_det.errors import EXIT_INTERRUPTED, run_tool
from ghost_det.evaluation.metric import FullCocoMetric
from ghost_det.weights.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
MOMENTS = ('random', 'step', 'save', 'before removal', 'evaluation', 'signal')
STEPS_AN_EPOCH, EPOCHS = 5, 4
# Everything that draws random numbers or keeps a state: augmentations in workers, sizes in the main process,
# averaged weights, accumulated gradients that an epoch's end does not use up, moments, a schedule by steps.
CONFIG = f"""
_base_ = [{str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')!r}]
custom_hooks = [
    dict(type='ChannelsLastHook', enabled=True),
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01, update_buffers=True),
]
model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchSyncRandomResize', random_size_range=(64, 128), size_divisor=32, interval=1)
        ]
    ),
    backbone=dict(init_cfg=None, width=0.5),
    neck=dict(in_channels=[12, 20, 56, 80], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
train_dataloader = dict(batch_size=4, num_workers=2)
val_dataloader = dict(batch_size=4)
test_dataloader = val_dataloader
optim_wrapper = dict(accumulative_counts=2)
train_cfg = dict(max_epochs={EPOCHS}, val_interval=1)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10)]
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1), logger=dict(interval=1))
randomness = dict(seed=3)
"""
# A loop of iterations, over data without end, with checkpoints and evaluations at steps that do not coincide.
ITERATIONS = (
    CONFIG
    + """
train_dataloader['sampler'] = dict(_delete_=True, type='InfiniteSampler', shuffle=True)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=20, val_interval=7)
default_hooks['checkpoint'].update(by_epoch=False, interval=3)
log_processor = dict(by_epoch=False)
"""
)
CONFIGS = {'epochs': CONFIG, 'iterations': ITERATIONS}


def make_config(folder: Path, loop: str = 'epochs') -> Path:
    path = folder / f'{loop}.py'
    path.write_text(CONFIGS[loop])
    return path


def in_child(work: Callable[[], Any], log: Path) -> int:
    """Start a function in a forked process, whose output goes to a file, and return the process."""
    pid = os.fork()
    if pid:
        return pid
    code: Any = 1
    os.setpgid(0, 0)
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)
        run_tool(work)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner: Any, name: str, number: int, then: Callable[..., Any]) -> None:
    """Run a function at the call of this number of a method, before it."""
    function = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            then(*args, **kwargs)
        return function(*args, **kwargs)

    setattr(owner, name, counted)


def signal_all(*_: Any, **__: Any) -> None:
    """Send SIGTERM to all processes of the group, loader workers among them."""
    # Not by the program kill, of which a version takes -1234 for -1: all processes of all.
    code = f'import os; os.killpg({os.getpgid(0)}, {int(signal.SIGTERM)})'
    subprocess.run([sys.executable, '-S', '-c', code], start_new_session=True)


def half(file: int) -> None:
    """Leave half of a checkpoint, which is about to be flushed to the disk."""
    os.truncate(f'/proc/self/fd/{file}', os.fstat(file).st_size // 2)
    die()


def arm(moment: str, dice: random.Random) -> None:
    """Make this process kill itself at a moment of the training it is about to run."""
    if moment == 'step':  # gradients are there, the weights are not yet changed, or some are
        on_call(torch.optim.Optimizer, 'zero_grad', dice.randint(1, 8), die)
    elif moment == 'signal':
        on_call(torch.optim.Optimizer, 'zero_grad', dice.randint(1, 8), signal_all)
    elif moment == 'save':
        on_call(os, 'fsync', dice.randint(1, 8), half)
    elif moment == 'before removal':
        on_call(KeepingCheckpointHook, '_remove', dice.randint(1, 3), die)
    elif moment == 'evaluation':
        on_call(FullCocoMetric, dice.choice(['process', 'compute_metrics']), dice.randint(1, 3), die)


def state(work_dir: Path) -> dict[str, Any]:
    """Return everything that a training leaves and that time does not change."""
    (last,) = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    (best,) = work_dir.glob('best_*.pth')
    found: dict[str, Any] = {'last': last.name, 'best': best.name, 'log': {}}
    own = ['cfg', 'last_ckpt', 'best_ckpt', 'experiment_name', 'exp_name', 'run_id', 'time', 'began']
    own += ['mmengine_version']  # which has the commit of the current folder
    for name, path in (('last', last), ('best', best)):
        content = load_checkpoint(path)
        hub = content.pop('message_hub')
        for key in own:
            hub['runtime_info'].pop(key, None)
            content['meta'].pop(key, None)
        hub['log_scalars'] = {
            key: (value._log_history, value._count_history)
            for key, value in hub['log_scalars'].items()
            if 'time' not in key and 'memory' not in key
        }
        found[f'content of {name}'] = {**content, 'hub': hub}
    for line in log_lines(work_dir):
        row = {key: value for key, value in json.loads(line).items() if 'time' not in key and key != 'memory'}
        found['log']['loss' in row, row['step']] = row
    return found


def log_lines(work_dir: Path) -> list[str]:
    """Return the complete lines of all logs of a work folder, which may have a step several times."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [line for log in logs for line in log.read_text().split('\n')[:-1]]


def _values(node: Any, place: str = '') -> Iterator[tuple[str, str]]:
    """Yield the values of a nested structure by their places; of arrays, a hash of their bytes."""
    if isinstance(node, dict | list | tuple) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _values(value, f'{place}/{key}')
    elif isinstance(node, torch.Tensor | np.ndarray):
        content = hashlib.sha256(np.asarray(node).tobytes()).hexdigest()
        yield place, f'{node.dtype} {tuple(node.shape)} {content}'
    else:
        yield place, repr(node)


def differences(one: Any, other: Any) -> list[str]:
    """Name the places where two nested structures are not bit-identical."""
    ours, theirs = dict(_values(one)), dict(_values(other))
    return [
        f'{place}: {ours.get(place, "nothing")[:60]} against {theirs.get(place, "nothing")[:60]}'
        for place in sorted(ours.keys() | theirs.keys())
        if ours.get(place) != theirs.get(place)
    ]


def soak(folder: Path, kills: int, seed: int, moments: list[str], loop: str) -> dict[str, Any]:
    """Train once without kills, then from new beginnings as often as needed with them; compare each end."""
    dice = random.Random(seed)
    config = str(make_config(folder, loop))
    data = find_data(make_sample(folder, train=STEPS_AN_EPOCH * 4, val=6))

    def start(name: str, moment: str | None = None, number: float = 0, **settings: Any) -> int:
        def work() -> None:
            if moment:
                arm(moment, random.Random(number))
            train(config, data=data, work_dir=str(folder / name), **settings)

        return in_child(work, folder / f'{name}.log')

    def is_killed(name: str, pid: int) -> bool:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code in (-signal.SIGKILL, EXIT_INTERRUPTED):
            return True
        assert code == 0, (folder / f'{name}.log').read_text()[-3000:]
        return False

    begun = time.perf_counter()
    assert not is_killed('whole', start('whole'))
    whole, length = state(folder / 'whole'), time.perf_counter() - begun
    report: dict[str, Any] = collections.Counter()
    problems: list[str] = []
    while report['kills'] < kills:
        name = f'killed{report["trainings"]}'
        report['trainings'] += 1
        killed = True
        while killed:
            moment = dice.choice(moments) if report['kills'] < kills else None
            pid = start(name, moment, dice.random(), resume='auto')
            if moment == 'random':
                time.sleep(dice.uniform(0.1, 1.0) * length)
                os.kill(pid, signal.SIGKILL)
            killed = is_killed(name, pid)
            report.update({'kills': killed, f'kills: {moment}': killed})
        found = differences(whole, state(folder / name))
        found += [f'{path.name} is left' for path in (folder / name).glob('.partial-*')]
        problems += [f'{name}{problem}' for problem in found[:10]]
        report['trainings that ended bit-identical'] += not found
        steps = sum('"loss"' in line for line in log_lines(folder / name))
        report['steps done twice'] += steps - STEPS_AN_EPOCH * EPOCHS
        print(f'{dict(report)}, {len(problems)} differences', file=sys.stderr, flush=True)
    return {**{key: count for key, count in report.items() if count}, 'differences': problems}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--moments', nargs='+', choices=MOMENTS, default=MOMENTS)
    parser.add_argument('--loop', choices=CONFIGS, default='epochs')
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        found = soak(Path(temporary), args.kills, args.seed, args.moments, args.loop)
    print(json.dumps(found, indent=2))
    sys.exit(bool(found['differences']))

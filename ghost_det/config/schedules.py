"""Schedules of learning rates that follow the length of the training, when it starts and when it resumes."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.hooks import ParamSchedulerHook
from mmengine.runner import EpochBasedTrainLoop

from ghost_det.errors import UserError

WARM_UP = 0.1
"""The largest part of a training that a warm-up may take, if ``--epochs`` sets the length."""
_WARM_UPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR')
_PROGRESS = ('last_step', 'base_values', 'verbose')


def set_epochs(cfg: Any, epochs: int) -> None:
    """Change the length of an epoch-based training, and of its schedules with it."""
    if epochs < 1 or 'max_epochs' not in cfg.train_cfg:
        raise UserError(f'--epochs {epochs}: expected a positive number, and a config that counts epochs')
    scale = epochs / cfg.train_cfg.max_epochs
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if scheduler.get('by_epoch', True):
            for key in ('begin', 'end', 'T_max'):
                if key in scheduler:
                    scheduler[key] = max(round(scheduler[key] * scale), int(key != 'begin'))
            if 'milestones' in scheduler:
                scheduler.milestones = [max(1, round(m * scale)) for m in scheduler.milestones]
    cfg.train_cfg.val_interval = max(1, round(cfg.train_cfg.get('val_interval', 1) * scale))
    cfg.train_cfg.max_epochs = epochs


def lengthen(cfg: Any, images: int) -> str | None:
    """Train for more epochs on few images, by the config's ``small_data``; return a line to log.

    So many that ``small_data.images`` are seen, an image once an epoch, and at most ``most_epochs``; a config
    that trains for other than its ``epochs`` is left alone.
    """
    rule, own = cfg.get('small_data'), cfg.train_cfg.get('max_epochs')
    if not rule or own != rule['epochs']:
        return None
    epochs = min(rule['most_epochs'], -(-rule['images'] // max(1, images)))
    if epochs <= own:
        return None
    set_epochs(cfg, epochs)
    return f'{images} images are few: {epochs} epochs instead of {own} (--epochs N to choose)'


def shorten_warm_up(schedulers: Any, steps: int) -> str | None:
    """Cut a warm-up in a ``param_scheduler``, in place, to a tenth of the training; return a line to log."""
    most = max(2, int(WARM_UP * steps))  # with one step, mmengine's LinearLR would never leave its start
    line = None
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if _is_warm_up(scheduler) and scheduler['end'] > most:
            was, scheduler['end'] = scheduler['end'], most
            line = f'--epochs: the warm-up is shortened from {was} to {most} steps: there are only {steps}.'
    return line


def _is_warm_up(scheduler: Any) -> bool:
    if not isinstance(scheduler, dict) or scheduler.get('by_epoch', True) or scheduler.get('begin'):
        return False
    rises = scheduler.get('start_factor', 1 / 3) < scheduler.get('end_factor', 1.0)
    return 'end' in scheduler and rises and str(scheduler['type']).endswith(_WARM_UPS)


def states(schedulers: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Return a runner's schedulers, each with a copy of its state."""
    groups = schedulers.values() if isinstance(schedulers, dict) else [schedulers or []]
    return [(each, copy.deepcopy(each.state_dict())) for group in groups for each in group]


def recompute(runner: Any, fresh: list[tuple[Any, dict[str, Any]]]) -> str | None:
    """Recompute the schedule of a resumed training if it is not the checkpoint's; return a line to log.

    mmengine takes the schedule from the checkpoint, with its length: one that had ended stays at its end,
    however long the training is now (mmengine issue 1565). It is replayed from its start, as the rate of a
    step may depend on the one before. The first rate is the checkpoint's.
    """
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    length = len(loop.dataloader)
    steps = loop.epoch * length + getattr(loop, 'place', 0) if by_epoch else loop.iter
    if all(
        _settings(scheduler.state_dict()) == _settings(state)
        and (scheduler.by_epoch or scheduler._global_step == steps)
        for scheduler, state in fresh
    ):
        return None
    if any(getattr(scheduler, 'need_val_args', False) for scheduler, _ in fresh):
        return "--resume: the checkpoint's schedule is kept: one that depends on metrics is not recomputed."
    before = _rate(runner)
    for scheduler, state in fresh:
        optimizer, name = scheduler.optimizer, state['param_name']
        for group in optimizer.param_groups:
            group[name] = group.setdefault(f'initial_{name}', group[name])
        values = [group[name] for group in optimizer.param_groups]
        scheduler.__dict__ = {**state, 'optimizer': optimizer, 'base_values': values}
        scheduler.last_step = scheduler._global_step = -1
        optimizer._global_step = 0  # or mmengine warns that the scheduler is ahead of the optimizer
    for scheduler, _ in fresh:
        scheduler.step()  # as when it is built
    hook = ParamSchedulerHook()
    for step in range(1, steps + 1):
        hook.after_train_iter(runner, step - 1)
        if by_epoch and step % length == 0 and step // length <= loop.epoch:
            hook.after_train_epoch(runner)
    long = f'{loop.max_epochs} epochs' if by_epoch else f'{loop.max_iters} steps'
    return (
        f'--resume: the schedule differs from the checkpoint: recomputed for {long} at step {steps}; the '
        f'learning rate is {_rate(runner):.4g} (was {before:.4g}).'
    )


def _settings(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in _PROGRESS and key[0] != '_'}


def _rate(runner: Any) -> float:
    return float(next(iter(runner.optim_wrapper.get_lr().values()))[0])

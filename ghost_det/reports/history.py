"""Losses and figures over a training, from mmengine's message hub, which is part of every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ghost_det.evaluation.coco import UNDEFINED

POINTS = 400
"""Of a curve: more than a figure has room for."""
FIGURES = ('mAP', 'mAP_50', 'mAP_75')
EVALUATIONS = 'evaluations'

Columns = dict[str, list[float | None]]


def add_evaluation(runner: Any, metrics: Mapping[str, float]) -> None:
    """Add the figures of an evaluation to the history."""
    if 'coco/bbox_mAP' not in metrics:
        return
    step = runner.epoch if by_epoch(runner) else runner.iter
    figures = {name: _defined(metrics[f'coco/bbox_{name}']) for name in FIGURES}
    hub = runner.message_hub
    earlier = [row for row in hub.runtime_info.get(EVALUATIONS, []) if row['step'] < step]
    hub.update_info(EVALUATIONS, [*earlier, {'step': step, **figures}])


def by_epoch(runner: Any) -> bool:
    """Tell whether a training counts epochs rather than iterations."""
    return 'max_epochs' in runner.cfg.train_cfg


def read_losses(runner: Any) -> Columns:
    """Return ``'iteration'``, ``'lr'`` and every loss by name, each a mean over the steps up to a point."""
    found = runner.message_hub.log_scalars
    names = [name for name in found if name.startswith('train/loss') or name == 'train/lr']
    values = {name.removeprefix('train/'): found[name].data[0] for name in names}
    steps = len(values.get('loss', ()))
    every = max(1, math.ceil(steps / POINTS))
    ends = range(steps, 0, -every)[::-1]
    undefined: list[float | None] = [None] * len(ends)
    columns: Columns = {
        'iteration': [runner.iter - steps + end for end in ends],
        'loss': undefined,
        'lr': undefined,
    }
    for name, column in values.items():
        if len(column) == steps:  # not a loss of some steps only
            columns[name] = [_defined(float(column[max(0, end - every) : end].mean())) for end in ends]
    return columns


def make_curves(runner: Any) -> dict[str, Any]:
    """Return loss, learning rate and mAP over the training as plain data."""
    losses = read_losses(runner)
    return {
        'unit': 'epoch' if by_epoch(runner) else 'iteration',
        'loss': [list(row) for row in zip(losses['iteration'], losses['loss'], losses['lr'])],
        'mAP': runner.message_hub.runtime_info.get(EVALUATIONS, []),
    }


def training_seconds(runner: Any) -> float:
    """Return how long all steps took, those before a resumption included."""
    times = runner.message_hub.log_scalars.get('train/time')
    return 0.0 if times is None else float(times.data[0].sum())


def _defined(value: float) -> float | None:
    return None if value == UNDEFINED or not math.isfinite(value) else value

"""Losses and figures over a training, from mmengine's message hub, which is part of every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ghost_det.evaluation.coco import UNDEFINED

POINTS = 400
"""Of a curve: more than a figure has room for."""
FIGURES = ('mAP', 'mAP_50', 'mAP_75')
EVALUATIONS = 'evaluations'


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


def make_curves(runner: Any) -> dict[str, Any]:
    """Return loss, learning rate and mAP over the training as plain data; see docs/report.md."""
    scalars = runner.message_hub.log_scalars
    loss, rate = (
        scalars[f'train/{name}'].data[0] if f'train/{name}' in scalars else () for name in ('loss', 'lr')
    )
    every = max(1, math.ceil(len(loss) / POINTS))
    points = []
    for end in range(len(loss), 0, -every):
        part = slice(max(0, end - every), end)
        means = [_defined(float(np.mean(values[part]))) if len(values) else None for values in (loss, rate)]
        points.append([runner.iter - len(loss) + end, *means])
    return {
        'unit': 'epoch' if by_epoch(runner) else 'iteration',
        'loss': points[::-1],
        'mAP': runner.message_hub.runtime_info.get(EVALUATIONS, []),
    }


def training_seconds(runner: Any) -> float:
    """Return how long all steps took, those before a resumption included."""
    times = runner.message_hub.log_scalars.get('train/time')
    return 0.0 if times is None else float(times.data[0].sum())


def _defined(value: float) -> float | None:
    return None if value == UNDEFINED or not math.isfinite(value) else value

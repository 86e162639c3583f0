"""Losses and figures over a training, from mmengine's message hub, which is part of every checkpoint."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghost_det.evaluation.coco import UNDEFINED

POINTS = 400
"""Of a curve, at most: more than a figure has room for."""
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
    """Return whether a training counts epochs rather than iterations."""
    return 'max_epochs' in runner.cfg.train_cfg


def make_curves(runner: Any) -> dict[str, Any]:
    """Return loss, learning rate and mAP over the training as plain data; see docs/reports.md."""
    scalars = runner.message_hub.log_scalars
    loss, rate = (
        scalars[f'train/{name}'].data[0] if f'train/{name}' in scalars else () for name in ('loss', 'lr')
    )
    start = runner.iter - len(loss) + 1
    steps = np.array_split(np.arange(len(loss)), POINTS)
    return {
        'unit': 'epoch' if by_epoch(runner) else 'iteration',
        'loss': [
            [start + int(part[-1]), _mean(loss, part), _mean(rate, part)] for part in steps if len(part)
        ],
        'mAP': runner.message_hub.runtime_info.get(EVALUATIONS, []),
    }


def _mean(values: Sequence[float], part: NDArray[np.int64]) -> float | None:
    return _defined(float(np.asarray(values)[part].mean())) if len(values) else None


def training_seconds(runner: Any) -> float:
    """Return how long all steps took, those before a resumption included."""
    times = runner.message_hub.log_scalars.get('train/time')
    return 0.0 if times is None else float(times.data[0].sum())


def _defined(value: float) -> float | None:
    return None if value == UNDEFINED or not math.isfinite(value) else value

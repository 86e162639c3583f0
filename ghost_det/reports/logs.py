"""What mmengine's logs of a work folder hold: the scalars of all runs in it, as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghost_det.evaluation.coco import UNDEFINED

POINTS = 400  # of a curve that is kept: more than a picture has columns for
FIGURES = ('mAP', 'mAP_50', 'mAP_75')

Rows = Sequence[dict[str, float]]


def read_scalars(work_dir: Path) -> list[dict[str, float]]:
    """Return the logged scalars of a work folder, those of resumed runs joined, ordered by step."""
    rows: list[dict[str, float]] = []
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        *lines, _ = log.read_text().split('\n')  # a killed run leaves half a line after the last end
        started = [json.loads(line) for line in lines if line]
        # A training row counts iterations, an evaluation's counts epochs.
        for kind in (True, False):
            steps = [row['step'] for row in started if ('loss' in row) is kind]
            first = min(steps, default=math.inf)
            rows = [row for row in rows if ('loss' in row) is not kind or row['step'] < first]
        rows += started
    return rows


def by_epoch(settings: Mapping[str, Any]) -> bool:
    """Tell whether a config counts a training in epochs."""
    return 'max_epochs' in (settings.get('train_cfg') or {})


def curves(rows: Rows, epochs: bool = True) -> dict[str, Any]:
    """Return loss, learning rate and mAP over the training, as plain data.

    Evaluations are counted in epochs, as the training is; else in iterations, which mmengine does not always
    log with them: then that of the last loss before is taken.
    """
    losses: list[list[float | None]] = []
    scores: list[dict[str, float | None]] = []
    seen = 0.0
    for row in rows:
        if 'loss' in row:
            seen = row['iter']
            losses.append([seen, _defined(row['loss']), _defined(row.get('lr'))])
        elif 'coco/bbox_mAP' in row:
            figures = {name: _defined(row.get(f'coco/bbox_{name}')) for name in FIGURES}
            scores.append({'step': row['step'] if epochs else max(row['step'], seen), **figures})
    every = max(1, math.ceil(len(losses) / POINTS))
    return {'unit': 'epoch' if epochs else 'iteration', 'loss': losses[::-every][::-1], 'mAP': scores}


def training_seconds(rows: Rows) -> float:
    """Return how long the steps took, by the logged times of steps; of runs that were resumed, too."""
    total = done = 0.0
    for row in rows:
        if 'loss' in row and 'time' in row:
            total += row['time'] * max(row['iter'] - done, 0)
            done = row['iter']
    return total


def _defined(value: float | None) -> float | None:
    return None if value is None or value == UNDEFINED or not math.isfinite(value) else value

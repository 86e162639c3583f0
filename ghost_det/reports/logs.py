"""What the logs of a work folder hold: mmengine's scalars, of all runs in it, as curves and figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghost_det.evaluation.coco import FIGURES, UNDEFINED

POINTS = 400  # of a curve that is kept: more than a picture has columns for
MAP = 'coco/bbox_mAP'

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

    Args:
        rows: of `read_scalars`.
        epochs: evaluations are counted in epochs, as the training is; else in iterations, which mmengine
            does not always log with them: then that of the last loss before is taken.
    """
    losses: list[list[float | None]] = []
    scores: list[dict[str, float | None]] = []
    seen = 0.0
    for row in rows:
        if 'loss' in row:
            seen = row['iter']
            losses.append([seen, defined(row['loss']), defined(row.get('lr'))])
        elif MAP in row:
            figures = {name: defined(row.get(f'coco/bbox_{name}')) for name in ('mAP', 'mAP_50', 'mAP_75')}
            scores.append({'step': row['step'] if epochs else max(row['step'], seen), **figures})
    every = max(1, math.ceil(len(losses) / POINTS))
    return {'unit': 'epoch' if epochs else 'iteration', 'loss': losses[::-every][::-1], 'mAP': scores}


def last_figures(rows: Rows) -> dict[str, Any]:
    """Return COCO's figures of the last evaluation in the logs, and each class's AP, as `summary` does."""
    row = next((row for row in reversed(rows) if 'loss' not in row and any('_mAP' in key for key in row)), {})
    found: dict[str, Any] = {}
    for kind in ('bbox', 'segm'):
        figures = {
            name: defined(row[f'coco/{kind}_{name}']) for name in FIGURES if f'coco/{kind}_{name}' in row
        }
        part = '' if kind == 'bbox' else f'{kind}_'
        named = ((re.fullmatch(rf'coco/{part}(.+)_precision', key), value) for key, value in row.items())
        classes = [{'name': match[1], 'AP': defined(value)} for match, value in named if match]
        if kind == 'bbox' and 'coco/segm_mAP' in row:
            classes = [each for each in classes if not str(each['name']).startswith('segm_')]
        if figures:
            found[kind] = {'figures': figures, 'classes': classes}
    return found


def unfinished(rows: Rows, settings: Mapping[str, Any]) -> str | None:
    """Return what the last evaluation is of, as ``epoch 2 of 8``, unless it is that of the training's end."""
    epochs = by_epoch(settings)
    loop = settings.get('train_cfg') or {}
    goal = loop.get('max_epochs' if epochs else 'max_iters')
    found = curves(rows, epochs)
    if goal is None or not found['mAP']:
        return None
    step = found['mAP'][-1]['step']
    # An evaluation after iterations is counted as at the last one that was logged before.
    logger = (settings.get('default_hooks') or {}).get('logger') or {}
    slack = 0 if epochs else logger.get('interval', 10) - 1
    return f'{found["unit"]} {step:.0f} of {goal}' if step + slack < goal else None


def training_seconds(rows: Rows) -> float:
    """Return how long the steps took, by the logged times of steps; of runs that were resumed, too."""
    total = done = 0.0
    for row in rows:
        if 'loss' in row and 'time' in row:
            total += row['time'] * max(row['iter'] - done, 0)
            done = row['iter']
    return total


def defined(value: float | None) -> float | None:
    """Return a logged number, or ``None`` for what stands for none."""
    return None if value is None or value == UNDEFINED or not math.isfinite(value) else value

"""Telling rows of YOLO labels with keypoints from polygons."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import numpy as np

from ghost_det.errors import UserError

from .label_files import Layout, read_text
from .table import Floats

SLACK = 0.01  # of the image's side, for what rounding leaves outside of it
SAMPLED = 500  # label files that are looked at
MOST = 0.9  # of their rows decide


def refuse_keypoints(root: Path, layout: Layout) -> None:
    """Refuse rows that may be polygons by their number, but by what they say are boxes with keypoints.

    Rows with keypoints all have the same length, and the keypoints lie in the box; read as polygons, they
    cross themselves.
    """
    labels = [label for pairs in layout.splits.values() for _, label in pairs if os.path.isfile(label)]
    rows: list[list[float]] = []
    for label in labels[:: len(labels) // SAMPLED + 1]:
        with contextlib.suppress(OSError, ValueError):  # reported when it is converted
            rows += [[float(word) for word in line.split()[1:]] for line in read_text(label).splitlines()]
    rows = [row for row in rows if len(row) > 5 and np.isfinite(row).all()]
    for length, count in Counter(map(len, rows)).most_common(1):
        same = np.array([row for row in rows if len(row) == length])
        # Any three points are a triangle, so these say nothing.
        polygons = length > 6 and length % 2 == 0 and np.mean([_is_polygon(row) for row in same]) > MOST
        for numbers in (3, 2) if count >= MOST * len(rows) else ():
            keypoints, rest = divmod(length - 4, numbers)
            if not rest and _are_keypoints(same, numbers, bool(polygons)):
                raise UserError(
                    f'{root}: the labels have {length} numbers after the class, which look like a box and '
                    f'{keypoints} keypoints, not like a polygon; say which in the yaml: '
                    f'"kpt_shape: [{keypoints}, {numbers}]", or "kpt_shape: [0, 0]" for polygons'
                )


def _is_polygon(row: Floats) -> bool:
    """Tell whether x1 y1 x2 y2 ... lie in the image, and the sides touch no others but their neighbours."""
    points = row.reshape(-1, 2)
    start = points[(points != np.roll(points, 1, 0)).any(1)]
    span = np.ptp(start, 0) if len(start) > 2 else np.zeros(2)
    if not (span > 0).all() or row.min() < -SLACK or row.max() > 1 + SLACK:
        return False
    start = (start - start.min(0)) / span
    end = np.roll(start, -1, 0)
    low, high = np.minimum(start, end), np.maximum(start, end)
    near = np.all(low[:, None] <= high + 1e-9, axis=2)
    (across, down), (x, y) = (end - start).T[..., None], (start - start[:, None]).transpose(2, 0, 1)
    turn = across * y - down * x  # of the start of side j, seen from side i
    touching = near & near.T & (turn * np.roll(turn, -1, 1) <= 1e-9)
    order = np.arange(len(start))
    distance = abs(order[:, None] - order)
    apart = (distance > 1) & (distance < len(start) - 1)
    return not (touching & touching.T & apart).any()


def _are_keypoints(rows: Floats, numbers: int, polygons: bool) -> bool:
    """Tell whether rows (n, 4 + keypoints x numbers) are boxes with most of their labelled keypoints inside.

    Where they may be polygons as well, the keypoints must span the boxes, as the first corner of a polygon is
    seldom the center of the others.
    """
    centers, sizes = rows[:, None, :2], rows[:, None, 2:4]
    points = rows[:, 4:].reshape(len(rows), -1, numbers)[..., :2]
    labelled = np.asarray((points > 0).any(2))
    near = (np.abs(points - centers) <= 0.55 * sizes).all(2) & labelled
    fit = ((sizes > 0) & (np.abs(centers - 0.5) + sizes / 2 <= 0.5 + SLACK)).all((1, 2))
    fit &= near.sum(1) >= 0.75 * labelled.sum(1)
    if fit.mean() < MOST or not polygons:
        return bool(fit.mean() >= MOST)
    spans = np.ptp(np.where(labelled[..., None], points, centers)[fit], axis=1) / rows[fit, 2:4]
    return bool(np.median(spans.min(1)) >= 0.6)

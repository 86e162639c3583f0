"""The extents of polygons and of run-length codes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

Floats = NDArray[np.float64]
CHUNK = 20_000
_LENGTHS = range(6, 2**62, 2)  # of a polygon's coordinates


def polygon_extents(boxes: Sequence[dict[str, Any]]) -> Floats:
    """Return x, y, width and height of what the polygons of each box span, (n, 4), NaN where it has none."""
    extents = np.full((len(boxes), 4), np.nan)
    at, points = [], []
    for index, box in enumerate(boxes):
        parts = box.get('segmentation')
        if type(parts) is list and parts and all(type(p) is list and len(p) in _LENGTHS for p in parts):
            at.append(index)
            points.append(parts[0] if len(parts) == 1 else list(chain.from_iterable(parts)))
    for first in range(0, len(at), CHUNK):
        extents[at[first : first + CHUNK]] = _spans(points[first : first + CHUNK])
    return extents


def _spans(points: list[list[float]]) -> Floats:
    starts = np.cumsum([0, *map(len, points[:-1])]) // 2
    try:
        pairs = np.fromiter(chain.from_iterable(points), np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):  # something that is no number
        return np.full((1, 4), np.nan) if len(points) == 1 else np.vstack([_spans([each]) for each in points])
    low, high = np.minimum.reduceat(pairs, starts), np.maximum.reduceat(pairs, starts)
    return np.hstack([low, high - low])


def outline_extents(boxes: Sequence[dict[str, Any]]) -> Floats:
    """Return what `polygon_extents` does, and of run-length codes what their masks span."""
    extents = polygon_extents(boxes)
    for index, box in enumerate(boxes):
        code = box.get('segmentation')
        size = code.get('size') if isinstance(code, dict) else None
        if type(size) is list and len(size) == 2 and all(type(n) is int and 0 < n < 2**16 for n in size):
            counts = run_lengths(code, size) or []
            if sum(counts[1::2]):
                extents[index] = mask.toBbox(mask.frPyObjects({'size': size, 'counts': counts}, *size))
    return extents


def run_lengths(value: Any, size: Sequence[int]) -> list[int] | None:
    """Return the counts of a run-length code, ``None`` of a broken one: of some, pycocotools dies.

    Counts are a list, or COCO's text: numbers of 5 bits a character, lowest first, each from the fourth on
    as its difference to the last but one.
    """
    if not isinstance(value, dict) or value.get('size') != list(size):
        return None
    code = value.get('counts')
    if isinstance(code, list):
        valid = all(type(count) is int and count >= 0 for count in code)
        return code if valid and sum(code) == size[0] * size[1] else None
    if not isinstance(code, str):
        return None
    counts: list[int] = []
    count = shift = 0
    for character in code:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        count |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        count -= (1 << shift) * (bits >> 4 & 1)
        count += counts[-2] if len(counts) > 2 else 0
        if count < 0:
            return None
        counts.append(count)
        count = shift = 0
    return None if shift or sum(counts) != size[0] * size[1] else counts

"""Overlaps and suppression of boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  # loads torch.ops.torchvision
from numpy.typing import NDArray
from torch import Tensor

from .sampling import wide


def _overlaps(a: Tensor, b: Tensor, offset: int = 0, of_first: bool = False) -> Tensor:
    """IoU of boxes ``(..., 4)`` that broadcast, or the part of ``a`` that is covered (``of_first``)."""
    lower, upper = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (upper - lower + offset).clamp(min=0).prod(-1)
    area = (a[..., 2:] - a[..., :2] + offset).prod(-1)
    if not of_first:
        area = area + (b[..., 2:] - b[..., :2] + offset).prod(-1) - shared
    return shared / area


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Fill ``ious`` ``(m, n)``, or ``(m,)`` if ``aligned``, for boxes ``(m, 4)`` and ``(n, 4)``.

    ``mode`` 0 is intersection over union, 1 over the first box. A side is ``x2 - x1 + offset`` pixels.
    """
    first, second = wide(bboxes1), wide(bboxes2)
    ious.copy_(_overlaps(first if aligned else first[:, None], second, offset, of_first=mode == 1))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices ``(k,)`` of the boxes ``(n, 4)`` to keep, best score first, ties in order."""
    boxes = wide(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # torchvision compares a float32 IoU with a float64 threshold: 0.6 would suppress an IoU of exactly 0.6.
    threshold = boxes.new_tensor(iou_threshold).item()
    keep: Tensor = torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)
    return keep


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap a better one (Bodla et al., 2017, section 3).

    ``method`` 0 zeroes and 1 scales a score by ``1 - IoU`` from ``iou_threshold`` on; 2 scales every score by
    ``exp(-IoU² / sigma)``. The k boxes that stay above ``min_score`` fill ``dets`` ``(n, 5)``, best first.
    """
    # In numpy, which takes a fifth of torch's time for so many small steps on the CPU.
    table = torch.cat((wide(boxes).T, wide(scores)[None])).numpy(force=True)
    order, best, end = np.arange(len(boxes)), 0, len(boxes)
    with np.errstate(all='ignore'):
        score, area = table[4], _areas(table, offset)
        while best < end:
            # As in C++, the best is swapped to the front, and the last fill the gaps: that orders ties.
            at = best + _greatest(score[best:end])
            for each in (*table, area, order):
                each[best], each[at] = each[at], each[best]
            rest = slice(best + 1, end)
            iou = _iou_of_one(table, area, best, rest, offset)
            if method == 2:
                score[rest] *= np.exp(-(iou * iou) / sigma)
            else:
                score[rest] *= np.where(iou >= iou_threshold, 1 - iou if method == 1 else 0, 1)
            best += 1
            drop = score[rest] < min_score
            if drop.any():
                count = len(drop) - np.count_nonzero(drop)
                gaps = best + np.flatnonzero(drop[:count])
                last = best + count + np.flatnonzero(~drop[count:])[::-1]
                for each in (*table, area, order):
                    each[gaps] = each[last]
                end = best + count
    dets[:end] = torch.from_numpy(table[:, :end].T)
    return torch.from_numpy(order[:end]).to(boxes.device)


def _areas(table: NDArray[Any], offset: int) -> NDArray[Any]:
    areas: NDArray[Any] = (table[2] - table[0] + offset) * (table[3] - table[1] + offset)
    return areas


def _iou_of_one(
    table: NDArray[Any], areas: NDArray[Any], one: int, others: slice | NDArray[Any], offset: int
) -> NDArray[Any]:
    x1, y1, x2, y2 = table[:4]
    width = np.minimum(x2[one], x2[others]) - np.maximum(x1[one], x1[others]) + offset
    height = np.minimum(y2[one], y2[others]) - np.maximum(y1[one], y1[others]) + offset
    shared = width.clip(0) * height.clip(0)
    iou: NDArray[Any] = shared / (areas[one] + areas[others] - shared)
    return iou


def _greatest(scores: NDArray[Any]) -> int:
    """Return the first maximum as C++ finds it: a NaN, of boxes without area, counts only in front."""
    at = int(scores.argmax())
    return int(np.nanargmax(scores)) if at and np.isnan(scores[at]) else at


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group detections ``(n, 5)`` by the best one that they overlap: its index, then theirs, best first."""
    table = wide(dets).T.numpy(force=True)
    rest = dets[:, 4].argsort(descending=True, stable=True).numpy(force=True)
    groups = []
    with np.errstate(all='ignore'):
        areas = _areas(table, 0)
        while len(rest):
            best, rest = int(rest[0]), rest[1:]
            near = _iou_of_one(table, areas, best, rest, 0) >= iou_threshold
            groups.append([best, *rest[near].tolist()])
            rest = rest[~near]
    return groups

"""What an exported file must find: the same detector, as mmdet itself runs it, on the same canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Boxes ``(n, 4)``, scores ``(n,)`` and labels ``(n,)`` of one image."""


@torch.no_grad()
def predict(detector: Any, canvases: np.ndarray[Any, Any]) -> list[Arrays]:
    """Return the detections of mmdet's own prediction.

    Args:
        detector: in evaluation mode.
        canvases: ``(N, H, W, 3)`` uint8 in OpenCV's order.
    """
    size = tuple(canvases.shape[1:3])
    samples = []
    for _ in canvases:
        meta = dict(
            img_shape=size, ori_shape=size, batch_input_shape=size, pad_shape=size, scale_factor=(1.0, 1.0)
        )
        samples.append(DetDataSample(metainfo=meta))
    images = [torch.from_numpy(canvas.transpose(2, 0, 1).copy()) for canvas in canvases]
    data = detector.data_preprocessor(dict(inputs=images, data_samples=samples), False)
    found = detector.predict(data['inputs'], data['data_samples'], rescale=False)
    arrays = []
    for each in found:
        instances = each.pred_instances.cpu()
        order = instances.scores.argsort(descending=True, stable=True)
        arrays.append(tuple(instances[key][order].numpy() for key in ('bboxes', 'scores', 'labels')))
    return arrays


@dataclass(frozen=True)
class Difference:
    """How far two sets of detections of the same images are apart.

    Attributes:
        boxes: that were compared.
        pixels: the largest distance of two coordinates of matched boxes.
        score: the largest distance of two scores.
        unmatched: boxes of either side without one of the same class nearby on the other.
    """

    boxes: int
    pixels: float
    score: float
    unmatched: int


def compare(wanted: Sequence[Arrays], found: Sequence[Arrays], near: float, limit: int) -> Difference:
    """Match the detections of each image, by class and distance.

    Args:
        wanted: of each image.
        found: of each image.
        near: how many pixels, and which hundredth of a score, a match may differ by at most.
        limit: boxes of an image at most; where there are as many, the last may be others of about that score.
    """
    boxes = unmatched = 0
    pixels = score = 0.0
    for (boxes_a, scores_a, labels_a), (boxes_b, scores_b, labels_b) in zip(wanted, found):
        if not len(boxes_a) or not len(boxes_b):
            unmatched += len(boxes_a) + len(boxes_b)
            continue
        apart = np.abs(boxes_a[:, None] - boxes_b[None]).max(-1)
        off = np.abs(scores_a[:, None] - scores_b[None])
        fits = (labels_a[:, None] == labels_b[None]) & (apart <= near) & (off <= near / 100)
        cost = np.where(fits, apart, np.inf)
        left_over = set(range(len(boxes_b)))
        edge = max(scores_a.min(), scores_b.min()) + near / 100
        for row in range(len(boxes_a)):
            best = min(left_over, key=lambda column: cost[row, column], default=None)
            if best is None or not np.isfinite(cost[row, best]):
                unmatched += int(len(boxes_a) < limit or scores_a[row] > edge)
                continue
            left_over.remove(best)
            boxes += 1
            pixels, score = max(pixels, float(apart[row, best])), max(score, float(off[row, best]))
        unmatched += sum(len(boxes_b) < limit or bool(scores_b[column] > edge) for column in left_over)
    return Difference(boxes, pixels, score, unmatched)

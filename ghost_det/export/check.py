"""What an exported file must find: what mmdet's own pipeline and prediction find in the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import Compose

from ghost_det.deploy.letterbox import Placement, place
from ghost_det.deploy.metadata import Metadata
from ghost_det.utils.images import Image

from .graph import is_pad, is_resize

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Boxes ``(n, 4)``, scores ``(n,)`` and labels ``(n,)`` of one image."""


@torch.no_grad()
def predict(detector: Any, steps: Sequence[Any], image: Image, metadata: Metadata) -> Arrays:
    """Return what mmdet finds in an image, by its own test pipeline and ``test_step``.

    For a file of a fixed canvas, the image is in a batch with one that fills the canvas, so that mmdet's own
    preprocessor pads it to the same size. Boxes are clipped to the image, and those without area dropped,
    where mmdet leaves them (YOLOX).

    Args:
        detector: in evaluation mode.
        steps: of the test pipeline; see `ghost_det.data.dataset.test_pipeline`.
        image: ``(H, W, 3)`` uint8 in BGR.
        metadata: of the file.
    """
    at = place(image.shape[1], image.shape[0], metadata)
    batch = [Compose(_array_steps(steps, at, metadata))(dict(img=image, img_id=0))]
    if not metadata.dynamic:
        size = metadata.height, metadata.width
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        inputs = torch.zeros(3, *size, dtype=torch.uint8)
        batch.append(dict(inputs=inputs, data_samples=DetDataSample(metainfo=meta)))
    found = detector.test_step({key: [each[key] for each in batch] for key in ('inputs', 'data_samples')})[0]
    instances = found.pred_instances.cpu()
    boxes, scores, labels = (instances[key].numpy() for key in ('bboxes', 'scores', 'labels'))
    boxes = boxes.clip(0, np.array([at.width, at.height] * 2))
    order = np.argsort(-scores, kind='stable')[: metadata.max_detections]  # mmdet sets YOLOX no limit
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    return boxes[order], scores[order], labels[order]


def _array_steps(steps: Sequence[Any], at: Placement, metadata: Metadata) -> list[Any]:
    """Return a pipeline's steps for an image that is an array, with the sizes of an export's own canvas."""
    made = [dict(type='mmdet.LoadImageFromNDArray')]
    for step in steps[1:]:
        if is_resize(step) and shrunk(at, metadata):
            step = {**step, 'scale': (at.new_width, at.new_height), 'keep_ratio': False}
        elif is_resize(step):
            step = {**step, 'scale': metadata.scale}
        elif is_pad(step) and step.get('size') is not None:
            step = {**step, 'size': (metadata.width, metadata.height)}
        made.append(step)
    return made


def shrunk(at: Placement, metadata: Metadata) -> bool:
    """Tell whether an image is smaller on a fixed canvas than mmdet, which would turn the canvas, has it."""
    return at != place(at.width, at.height, replace(metadata, dynamic=True))


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

"""Files without post-processing: a canvas as the network's input, and its maps as boxes, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ghost_det.utils.images import Image

from .metadata import Metadata, RawHead

INPUT = 'image'
"""The network's input ``[3, H, W]``, 0 to 255 in OpenCV's order (BGR)."""

MAX_RATIO = abs(np.log(16 / 1000))
"""The largest change of an anchor's side, as a logarithm: mmdet's, which no config can set."""

Sizes = NDArray[np.int64]
"""Height and width of each image on its canvas, ``[N, 2]``."""
Raw = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""The results for a batch: boxes ``[N, K, 4]``, scores ``[N, K]``, labels ``[N, K]``."""
Maps = Callable[[NDArray[np.float32]], Sequence[NDArray[Any]]]
"""A network: from its input to its maps ``[C, H, W]``, scores and boxes of each level in turn."""


def post_processed(network: Maps, canvases: Image, sizes: Sizes, metadata: Metadata) -> Raw:
    """Return the boxes in a batch of canvases, as a graph with post-processing does."""
    head, limit = metadata.raw, metadata.max_detections
    assert head is not None
    count = len(canvases)
    boxes, scores = np.zeros((count, limit, 4), np.float32), np.zeros((count, limit), np.float32)
    labels = np.full((count, limit), -1, np.int64)
    for image, (canvas, size) in enumerate(zip(canvases, sizes)):
        pixels = canvas.astype(np.float32)
        pixels[size[0] :] = head.fill
        pixels[:, size[1] :] = head.fill
        maps = network(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        found = candidates(maps, size, head, metadata.score_threshold)
        kept = suppress(*found, metadata.iou_threshold)[:limit]
        place = image, slice(len(kept))
        boxes[place], scores[place], labels[place] = (part[kept] for part in found)
    return boxes, scores, labels


def candidates(maps: Sequence[NDArray[Any]], size: NDArray[np.int64], head: RawHead, least: float) -> Raw:
    """Return the boxes ``[K, 4]`` of all levels that score above ``least``, their scores and labels."""
    levels = []
    for scores, raw, stride, base in zip(maps[::2], maps[1::2], head.strides, head.anchors):
        anchors = np.array(base, np.float32)
        shape = len(anchors), -1, *scores.shape[1:]
        table = scores.reshape(shape).transpose(2, 3, 0, 1)  # in mmdet's order, for equal scores
        places = np.nonzero(table > least)
        best = np.argsort(-table[places], kind='stable')[: head.candidates]
        row, column, anchor, label = (each[best] for each in places)
        priors = anchors[anchor] + np.stack([column, row, column, row], 1).astype(np.float32) * stride
        boxes = decode(raw.reshape(shape)[anchor, :, row, column], priors, stride, head)
        boxes = np.clip(boxes, 0, np.array([size[1], size[0]] * 2, np.float32))
        large = ((boxes[:, 2:] - boxes[:, :2]) > head.min_side).all(axis=1)
        levels.append((boxes[large], table[places][best][large], label[large]))
    boxes, top, labels = (np.concatenate(parts) for parts in zip(*levels))
    return boxes, top, labels


def decode(raw: NDArray[Any], priors: NDArray[np.float32], stride: int, head: RawHead) -> NDArray[np.float32]:
    """Return boxes ``[K, 4]`` from anchors and the values ``[K, D]`` in the maps of boxes."""
    centres, sides = (priors[:, :2] + priors[:, 2:]) / 2, priors[:, 2:] - priors[:, :2]
    if head.bins:  # a distribution of each side's distance from the centre, in strides
        shares = raw.reshape(len(raw), 4, head.bins)
        shares = np.exp(shares - shares.max(axis=-1, keepdims=True))
        expected = shares @ np.arange(head.bins, dtype=np.float32) / shares.sum(axis=-1) * stride
        return np.concatenate([centres - expected[:, :2], centres + expected[:, 2:]], axis=1)
    deltas = raw * np.array(head.stds, np.float32) + np.array(head.means, np.float32)
    centres = centres + deltas[:, :2] * sides
    half = sides * np.exp(deltas[:, 2:].clip(-MAX_RATIO, MAX_RATIO)) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def suppress(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], overlap: float
) -> NDArray[np.int64]:
    """Return the indices of the boxes that non-maximum suppression by class keeps, best first."""
    if not len(boxes):
        return np.zeros(0, np.int64)
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    kept = cv2.dnn.NMSBoxesBatched(corners, scores.tolist(), labels.tolist(), 0.0, overlap)
    return np.array(kept, np.int64)

"""Boxes from a detector's maps, in numpy, for files without post-processing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ghost_det.utils.images import Image

from .metadata import Metadata

MAPS_INPUT = 'image'
"""The network's input ``[3, H, W]``: a canvas, as float32."""

Sizes = NDArray[np.int64]
"""Height and width of each image on its canvas, ``[N, 2]``."""
RawDetections = tuple[Iterable[NDArray[Any]], Iterable[NDArray[Any]], Iterable[NDArray[Any]]]
"""The boxes ``[K, 4]`` of each image in a batch, their scores ``[K]`` and labels ``[K]``, best first."""
Network = Callable[[NDArray[np.float32]], Sequence[NDArray[Any]]]
"""From an image to the maps that `map_names` lists, ``[C, H, W]`` each."""


def map_names(strides: Sequence[int]) -> list[str]:
    """Return the names of a network's outputs: scores and boxes of each level."""
    return [f'{kind}_{stride}' for stride in strides for kind in ('scores', 'boxes')]


def find_boxes(network: Network, canvases: Image, sizes: Sizes, metadata: Metadata) -> RawDetections:
    """Return the boxes in a batch of canvases, as a graph with post-processing does."""
    found = []
    for canvas, size in zip(canvases, sizes):
        pixels = canvas.astype(np.float32)
        pixels[size[0] :] = pixels[:, size[1] :] = metadata.fill
        maps = network(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        _check(maps, pixels.shape, metadata)
        levels = zip(metadata.strides, maps[::2], maps[1::2])
        parts = zip(*(_candidates(*level, size, metadata) for level in levels))
        boxes, scores, labels = (np.concatenate(part) for part in parts)
        table = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float).tolist()
        limits = 0.0, metadata.iou_threshold
        best = cv2.dnn.NMSBoxesBatched(table, scores.tolist(), labels.tolist(), *limits)
        kept = list(best)[: metadata.max_detections]
        found.append((boxes[kept], scores[kept], labels[kept]))
    boxes, scores, labels = zip(*found)
    return boxes, scores, labels


def _check(maps: Sequence[NDArray[Any]], canvas: tuple[int, ...], metadata: Metadata) -> None:
    """Raise an error if a network's maps are not those that its metadata describes."""
    expected = [
        (count, *(-(-side // stride) for side in canvas[:2]))
        for stride, boxes in zip(metadata.strides, maps[1::2])
        for count in (len(boxes) // 4 * len(metadata.classes), len(boxes))
    ]
    if [each.shape for each in maps] != expected or len(maps) != 2 * len(metadata.strides):
        raise ValueError('its maps do not match its metadata')


def _candidates(
    stride: int, scores: NDArray[Any], maps: NDArray[Any], size: NDArray[np.int64], metadata: Metadata
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the boxes of a level that are to be suppressed, their scores and labels."""
    anchors = len(maps) // 4
    shape = anchors, -1, *scores.shape[1:]
    table = scores.reshape(shape).transpose(2, 3, 0, 1)  # in mmdet's order, for equal scores
    places = np.nonzero(table > metadata.score_threshold)
    best = np.argsort(-table[places], kind='stable')[: metadata.candidates]
    row, column, anchor, label = (each[best] for each in places)
    cells = np.stack([column, row, column, row], axis=1)
    boxes = (cells + maps.reshape(shape)[anchor, :, row, column]) * stride
    boxes = boxes.clip(0, size[[1, 0, 1, 0]])
    valid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[valid], table[places][best][valid], label[valid]

"""Images on a detector's canvas, and boxes on the canvas back in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ghost_det.utils.images import Image

from .metadata import Metadata


class Placement(NamedTuple):
    """The size of an image, and its size on the canvas, where it lies at the top left."""

    width: int
    height: int
    new_width: int
    new_height: int


def place(width: int, height: int, metadata: Metadata) -> Placement:
    """Return the size of an image on the canvas, as mmdet's ``Resize`` computes it.

    mmdet turns a canvas that is not square for upright images; on a fixed one they are made to fit.
    """
    if not metadata.keep_ratio:
        return Placement(width, height, *metadata.scale)
    sides = metadata.scale
    scale = min(max(sides) / max(width, height), min(sides) / min(width, height))
    if not metadata.dynamic:
        scale = min(scale, metadata.width / width, metadata.height / height)
    return Placement(width, height, max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))


def letterbox(images: Sequence[Image], metadata: Metadata) -> tuple[Image, list[Placement]]:
    """Return canvases ``[N, H, W, 3]`` with one image each, and the images' placements."""
    places = [place(image.shape[1], image.shape[0], metadata) for image in images]
    height, width = metadata.height, metadata.width
    if metadata.dynamic:  # as mmdet pads a batch
        divisor = metadata.size_divisor
        height = -(-max(at.new_height for at in places) // divisor) * divisor
        width = -(-max(at.new_width for at in places) // divisor) * divisor
    canvases = np.empty((len(images), height, width, 3), np.uint8)
    for canvas, image, at in zip(canvases, images, places):
        size = at.new_width, at.new_height
        canvas[: at.new_height, : at.new_width] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        canvas[: at.new_height, at.new_width :] = metadata.pad_value
        canvas[at.new_height :] = metadata.pad_value
    return canvases, places


def image_sizes(canvases: Image, places: Sequence[Placement], metadata: Metadata) -> NDArray[np.int64]:
    """Return the graph's input ``sizes``: each image's height and width on its canvas, ``[N, 2]``."""
    if metadata.clip_to_canvas:
        return np.array([canvases.shape[1:3]] * len(places), np.int64)
    return np.array([(each.new_height, each.new_width) for each in places], np.int64)


def to_image(boxes: NDArray[Any], at: Placement) -> NDArray[np.float32]:
    """Return boxes ``[n, 4]`` on a canvas in pixels of the image, clipped at its border."""
    scale = np.array([at.new_width / at.width, at.new_height / at.height] * 2, np.float32)
    limit = np.array([at.width, at.height] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) / scale, 0, limit)

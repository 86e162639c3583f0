"""The images that a detector does best and worst on, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from ghost_det.deploy import Detections
from ghost_det.deploy.draw import draw
from ghost_det.evaluation.errors import SCORE, matched_images
from ghost_det.utils.images import Image

SIDE = 336  # px, of the longer side of an image in a picture
QUALITY = 82  # of JPEG
GAP = 6  # px


class Ranked(NamedTuple):
    """How well the boxes of one image were found.

    Attributes:
        image_id: the data set's own.
        f1: 2 * right / (true + found), from 0 to 1.
        true: boxes that count, so without crowds.
        found: detections with a score from `SCORE`, those in crowds left out.
        right: of these, by COCO's rules at IoU 0.5.
    """

    image_id: int
    f1: float
    true: int
    found: int
    right: int


def rank(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[Ranked]:
    """Return the images by falling F1 at IoU 0.5 and scores from `SCORE`.

    Of equals those with most boxes are at the ends. An image with neither true nor found boxes has no F1 and
    is left out. F1 and not AP, as it judges just the boxes that a picture shows.

    Args:
        truth: the content of an annotation file, as `ghost_det.evaluation.coco.evaluate` takes it.
        results: COCO's, with boxes.
    """
    labels = {category['id']: label for label, category in enumerate(truth['categories'])}
    ranked = []
    for image in matched_images(truth, [each for each in results if each['score'] >= SCORE], 'bbox', labels):
        found = int((~image.in_crowd).sum())
        right = int((image.match >= 0).sum())
        true = len(image.true)
        if true + found:
            ranked.append(Ranked(image.id, 2 * right / (true + found), true, found, right))
    return sorted(ranked, key=lambda each: (-each.f1, (0.5 - each.f1) * (each.true + each.found)))


def ends(ranked: Sequence[Ranked], most: int) -> tuple[list[Ranked], list[Ranked]]:
    """Return the best images and, the worst first, the worst; no image is both."""
    best = [each for each in ranked[:most] if each.right]
    rest = ranked[len(best) :]
    return best, [each for each in reversed(rest[-most:]) if each.f1 < 1]


def draw_pair(
    image: Image,
    true: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
) -> bytes:
    """Return a JPEG file of true boxes beside found ones, in the same colour for the same class.

    Args:
        image: ``[height, width, 3]`` in BGR.
        true: annotations of COCO's format, ``bbox`` in pixels of the image.
        found: COCO results, of which those from `SCORE` are drawn.
        categories: of the annotation file.
    """
    names = [str(category['name']) for category in categories]
    labels = {category['id']: label for label, category in enumerate(categories)}
    shown = sorted((each for each in found if each['score'] >= SCORE), key=lambda each: -each['score'])
    parts = []
    for boxes in (true, shown):
        corners = np.array([each['bbox'] for each in boxes], dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        scores = np.array([each.get('score', 1) for each in boxes], dtype=np.float32)
        classes = np.array([labels[each['category_id']] for each in boxes], dtype=np.int64)
        parts.append(Detections(corners, scores, classes))
    pair = draw_beside((image, image), (parts[0], parts[1]), names)
    done, data = cv2.imencode('.jpg', pair, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return data.tobytes()


def draw_beside(
    images: tuple[Image, Image], parts: tuple[Detections, Detections], classes: Sequence[str]
) -> Image:
    """Return true boxes, without scores, beside found ones, on images made `SIDE` pixels long or high.

    Args:
        images: ``[height, width, 3]`` in BGR; those under the true boxes, and under the found ones.
        parts: the boxes, in pixels of the images.
        classes: names, by label.
    """
    scale = SIDE / max(images[0].shape[:2])
    halves = []
    for image, boxes, scored in zip(images, parts, (False, True)):
        small: Any = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        halves.append(draw(small, replace(boxes, boxes=boxes.boxes * scale), classes, scored))
    halves.insert(1, np.full((len(halves[0]), GAP, 3), 255, np.uint8))
    return np.hstack(halves)

"""Boxes drawn on images, with numpy and OpenCV."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2

from ghost_det.utils.images import Image

from .detector import Detections

Colour = tuple[int, int, int]
"""Blue, green, red."""
FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour_of(label: int) -> Colour:
    """Return the colour of a class: always the same, and unlike those of its neighbours."""
    hue = label * 0.618034 % 1  # steps of the golden ratio spread the hues
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.75)[label // 8 % 2])
    return round(blue * 255), round(green * 255), round(red * 255)


def caption(label: int, score: float | None, classes: Sequence[str]) -> str:
    """Return the text of a box; OpenCV's fonts have only ASCII."""
    name = classes[label][:30]
    if not (name.isascii() and name.isprintable() and name.strip()):
        name = f'class {label}'
    return name if score is None else f'{name} {score:.2f}'


def draw(image: Image, found: Detections, classes: Sequence[str], scored: bool = True) -> Image:
    """Return a copy of an image with boxes and their names and scores; the highest-scoring on top."""
    drawn = image.copy()
    unit = max(image.shape[:2]) / 640
    for box, score, label in reversed(list(zip(found.boxes, found.scores, found.labels))):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        colour = colour_of(int(label))
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, max(1, round(2 * unit)))
        text = caption(int(label), float(score) if scored else None, classes)
        _write(drawn, text, (x1, y1), colour, max(0.4, 0.45 * unit))
    return drawn


def _write(image: Image, text: str, corner: tuple[int, int], colour: Colour, size: float) -> None:
    """Write above a corner on a filled box, inside the image where it fits."""
    strokes = max(1, round(size))
    (width, height), below = cv2.getTextSize(text, FONT, size, strokes)
    full = height + below + 2
    x = max(0, min(corner[0], image.shape[1] - width))
    y = max(full, corner[1])
    cv2.rectangle(image, (x, y - full), (x + width, y), colour, cv2.FILLED)
    light = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 128
    ink = (0, 0, 0) if light else (255, 255, 255)
    cv2.putText(image, text, (x, y - below), FONT, size, ink, strokes, cv2.LINE_AA)

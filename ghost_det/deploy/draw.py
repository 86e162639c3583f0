"""Boxes drawn on images, with numpy and OpenCV."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2

from ghost_det.utils.images import Image

from .detector import Detections

Colour = tuple[int, int, int]
FONT = cv2.FONT_HERSHEY_SIMPLEX
LONGEST = 30
"""Characters of a class name that are shown."""


def colour_of(label: int) -> Colour:
    """Return the colour of a class, in BGR: always the same, and unlike those of its neighbours."""
    # Steps of the golden ratio spread the hues.
    hue = label * 0.618034 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, (0.95, 0.75)[label // 8 % 2])
    return round(blue * 255), round(green * 255), round(red * 255)


def caption(label: int, score: float | None, classes: Sequence[str]) -> str:
    """Return the text of a box; OpenCV's fonts have only ASCII."""
    name = classes[label]
    if not (name.isascii() and name.isprintable() and name.strip()):
        name = f'class {label}'
    return name[:LONGEST] if score is None else f'{name[:LONGEST]} {score:.2f}'


def draw(image: Image, found: Detections, classes: Sequence[str], scored: bool = True) -> Image:
    """Return a copy of an image with boxes and their names and scores; the highest-scoring on top."""
    drawn = image.copy()
    unit = max(image.shape[0], image.shape[1]) / 640
    width = max(1, round(2 * unit))
    for box, score, label in reversed(list(zip(found.boxes, found.scores, found.labels))):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        colour = colour_of(int(label))
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, width)
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
    blue, green, red = colour
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else (255, 255, 255)
    cv2.putText(image, text, (x, y - below), FONT, size, ink, strokes, cv2.LINE_AA)

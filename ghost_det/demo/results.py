"""What the page shows of an image: its boxes above a score, their number, JSON, and the times of models."""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ghost_det.deploy.detect import Results
from ghost_det.deploy.detector import Detections
from ghost_det.deploy.draw import draw
from ghost_det.errors import UserError
from ghost_det.utils.images import Image, decode_image

SHOWN = 1600
"""Pixels of the longer side of a shown image."""


class Model(NamedTuple):
    """A detector, and in torch its config and checkpoint."""

    detector: Any
    files: tuple[str, str] | None = None


@dataclass(frozen=True)
class ImageResult:
    """An image and what a model detected in it, kept for a visitor."""

    path: Path
    size: tuple[int, int]  # height and width
    picture: Image  # the image, at most `SHOWN` pixels long
    model: str
    classes: tuple[str, ...]
    found: Detections  # in pixels of the image, down to the model's lowest score
    times: dict[str, float]  # milliseconds of every model tried on the image

    def above(self, least: float) -> Detections:
        """Return the detections with at least this score."""
        kept = self.found.scores >= np.float32(least)
        return Detections(self.found.boxes[kept], self.found.scores[kept], self.found.labels[kept])


def read_upload(path: Path) -> Image:
    """Return an uploaded image, upright and in BGR; a client may name any other file."""
    if not path.resolve().is_relative_to(tempfile.gettempdir()):
        raise UserError('not an upload; upload the image again')
    try:
        return decode_image(path.read_bytes(), path.name)
    except OSError:
        raise UserError(f'{path.name}: the upload has expired; upload it again') from None


def detect(path: Path, name: str, model: Model, before: ImageResult | None) -> ImageResult:
    """Detect objects in an image; times of other models on the same image are kept."""
    image = read_upload(path)
    start = time.perf_counter()
    found = model.detector(image)
    seconds = time.perf_counter() - start
    height, width = image.shape[:2]
    scale = min(1.0, SHOWN / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    earlier = before.times if before and before.path == path else {}
    times = {**earlier, name: 1000 * seconds}
    return ImageResult(path, (height, width), picture, name, model.detector.classes, found, times)


def draw_boxes(result: ImageResult, least: float) -> Image:
    """Return the image in RGB with its boxes."""
    kept = result.above(least)
    scale = max(result.picture.shape[:2]) / max(result.size)
    return draw(result.picture, replace(kept, boxes=kept.boxes * scale), result.classes)[..., ::-1]


def to_html(result: ImageResult, least: float) -> str:
    """Return the number of boxes of each class, and the time of each model."""
    kept = result.above(least)
    counts = Counter(result.classes[label] for label in kept.labels)
    names = ', '.join(f'{count} {escape(name)}' for name, count in counts.most_common())
    text = f'<b>{len(kept)}</b> of {len(result.found)} boxes score {least:.2f} or more'
    times = ''.join(f'<li>{escape(name)}: {time:.1f} ms</li>' for name, time in result.times.items())
    return f'<p>{text}{": " if names else ""}{names}.</p><ul>{times}</ul>'


def to_json(result: ImageResult, least: float) -> dict[str, Any]:
    """Return the detections as ``ghost-det detect --json`` does."""
    results = Results(result.model, result.classes)
    results.add(result.path.name, result.size, result.above(least))
    return results.content

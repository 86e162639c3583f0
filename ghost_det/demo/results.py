"""What the page shows of an image: its boxes above a score, their number, JSON, and the times of models."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ghost_det.deploy.detector import Detections, Detector
from ghost_det.deploy.draw import draw
from ghost_det.errors import UserError
from ghost_det.utils.images import Image, decode_image
from ghost_det.utils.system import require_stack

SHOWN = 1600
"""Pixels of the longer side of a shown image."""
STEPS = ('prepare', 'network', 'boxes')


class Model(NamedTuple):
    """A detector, a description, and in torch its config and checkpoint."""

    detector: Any
    kind: str
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
    times: dict[str, dict[str, float]]  # seconds of each step, for every model tried on the image


def open_models(words: Iterable[str], threads: int | None = None) -> dict[str, Model]:
    """Open exported detectors, and configs followed by their checkpoints, by file name."""
    pairs = list(_pairs(words))
    names = Counter(Path(file).name for _, file in pairs)
    models = {}
    for config, file in pairs:
        name = file if names[Path(file).name] > 1 else Path(file).name
        models[name] = _open(config, file, threads)
        models[name].detector.timed(np.zeros((64, 64, 3), np.uint8))  # the first run is slow
    return models


def _pairs(words: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    rest = iter(words)
    for word in rest:
        if Path(word).suffix not in ('', '.py'):
            yield None, word
            continue
        checkpoint = next(rest, None)
        if checkpoint is None:
            raise UserError(f'{word}: expected a checkpoint after a config')
        yield word, checkpoint


def _open(config: str | None, file: str, threads: int | None) -> Model:
    if config is None:
        detector = Detector(file, threads=threads)
        engine = 'OpenVINO' if file.endswith('.xml') else 'ONNX'
        return Model(detector, f'{engine}, {detector.metadata.precision}')
    require_stack(config)
    import ghost_det.register  # noqa: F401
    from ghost_det.engine.inference import TorchDetector

    return Model(TorchDetector(config, file, threads=threads), f'torch, {Path(config).stem}', (config, file))


def read_upload(path: Path) -> Image:
    """Return an uploaded image, upright and in BGR; a client may name any other file."""
    if not path.resolve().is_relative_to(tempfile.gettempdir()):
        raise UserError('not an upload; choose the image again')
    try:
        return decode_image(path.read_bytes(), path.name)
    except OSError:
        raise UserError(f'{path.name}: deleted from the server; choose it again') from None


def detect(path: Path, name: str, model: Model, before: ImageResult | None) -> ImageResult:
    """Detect objects in an image; times of other models on the same image are kept."""
    image = read_upload(path)
    found, times = model.detector.timed(image)
    height, width = image.shape[:2]
    scale = min(1.0, SHOWN / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    earlier = before.times if before and before.path == path else {}
    times = {**earlier, name: times}
    return ImageResult(path, (height, width), picture, name, model.detector.classes, found, times)


def above(found: Detections, least: float) -> Detections:
    """Return the detections with at least this score."""
    kept = found.scores >= np.float32(least)
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def draw_boxes(result: ImageResult, least: float) -> Image:
    """Return the image in RGB with its boxes."""
    kept = above(result.found, least)
    height, width = result.picture.shape[:2]
    scale = np.array([width / result.size[1], height / result.size[0]] * 2, np.float32)
    drawn = draw(result.picture, replace(kept, boxes=kept.boxes * scale), result.classes)
    return drawn[..., ::-1]


def to_html(result: ImageResult, least: float) -> str:
    """Return the number of boxes of each class, and a table of the times of each model."""
    kept = above(result.found, least)
    counts = Counter(result.classes[label] for label in kept.labels)
    each = ', '.join(f'{count} {escape(name)}' for name, count in counts.most_common())
    text = f'<b>{len(kept)}</b> of {len(result.found)} boxes score {least:.2f} or more'
    rows = [('th', ('ms', *STEPS, 'total'))]
    for name, times in result.times.items():
        cells = [f'{1000 * times[step]:.1f}' if step in times else '' for step in STEPS]
        rows.append(('td', (escape(name), *cells, f'{1000 * sum(times.values()):.1f}')))
    lines = (''.join(f'<{tag}>{cell}</{tag}>' for cell in cells) for tag, cells in rows)
    table = ''.join(f'<tr>{line}</tr>' for line in lines)
    return f'<p>{text}{": " if each else ""}{each}.</p><table>{table}</table>'


def to_json(result: ImageResult, least: float) -> str:
    """Return the detections as ``ghost-det detect --json`` does, one per line."""
    height, width = result.size
    content: dict[str, list[dict[str, Any]]] = {
        'categories': [{'id': label + 1, 'name': name} for label, name in enumerate(result.classes)],
        'images': [{'id': 1, 'file_name': result.path.name, 'height': height, 'width': width}],
        'results': above(result.found, least).to_coco(1, range(1, len(result.classes) + 1)),
    }
    parts = [f' "model": {json.dumps(result.model)}']
    for key, entries in content.items():
        lines = ',\n'.join(f'  {json.dumps(entry)}' for entry in entries)
        parts.append(f' "{key}": [\n{lines}\n ]')
    return '{\n' + ',\n'.join(parts) + '\n}'

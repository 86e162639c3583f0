"""What the page shows of an image: objects found in it, those above a score, and the times of models."""

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
"""Pixels of the longer side of what is kept and shown of an image."""
STEPS = ('prepare', 'network', 'boxes')
QUICK = 0.25
"""Seconds below which a model is timed three times; the best time is shown."""


class Model(NamedTuple):
    """A detector, exported or of torch, what it is in words, and for torch its config and checkpoint."""

    detector: Any
    kind: str
    files: tuple[str, str] | None = None


@dataclass(frozen=True)
class ImageResult:
    """An image and what a model found in it, as it is kept for a visitor."""

    path: Path
    size: tuple[int, int]  # height and width, upright
    picture: Image  # the image, made smaller where it is larger than `SHOWN`
    model: str
    classes: tuple[str, ...]
    found: Detections  # in pixels of the image, down to the lowest score that the model gives
    times: dict[str, dict[str, float]]  # seconds of each step, of every model that was tried on the image


def open_models(words: Iterable[str], threads: int | None = None) -> dict[str, Model]:
    """Open exported detectors, and configs before their checkpoints, by the names of their files."""
    pairs = list(_pairs(words))
    names = Counter(Path(file).name for _, file in pairs)
    models: dict[str, Model] = {}
    for config, file in pairs:
        name = file if names[Path(file).name] > 1 else Path(file).name
        if name in models:
            raise UserError(f'{file}: is named twice')
        models[name] = _open(config, file, threads)
        models[name].detector.timed(np.zeros((64, 64, 3), np.uint8))  # a first run is slow
    return models


def _pairs(words: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    rest = iter(words)
    for word in rest:
        if Path(word).suffix not in ('', '.py'):
            yield None, word
            continue
        checkpoint = next(rest, None)
        if checkpoint is None:
            raise UserError(f'{word}: expected a checkpoint after a config, got nothing')
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
    """Return an image, in BGR and upright, that the page still keeps."""
    if not path.resolve().is_relative_to(tempfile.gettempdir()):  # which a client may say of any file here
        raise UserError('not an upload; choose the image again')
    try:
        return decode_image(path.read_bytes(), path.name)
    except OSError:
        raise UserError(f'{path.name}: no longer kept here; choose it again') from None


def detect(path: Path, name: str, model: Model, before: ImageResult | None) -> ImageResult:
    """Find objects in an image; where the last result was of the same image, its times are kept."""
    image = read_upload(path)
    runs = [model.detector.timed(image)]
    if _total(runs[0]) < QUICK:  # the browser is busy just now, too, and may have the same cores
        runs += [model.detector.timed(image) for _ in range(2)]
    found, times = min(runs, key=_total)
    height, width = image.shape[:2]
    scale = min(1.0, SHOWN / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    earlier = before.times if before and before.path == path else {}
    times_of_all = {**earlier, name: times}
    return ImageResult(path, (height, width), picture, name, model.detector.classes, found, times_of_all)


def _total(run: tuple[Detections, dict[str, float]]) -> float:
    return sum(run[1].values())


def above(found: Detections, least: float) -> Detections:
    """Return the detections that score at least so much."""
    kept = found.scores >= np.float32(least)
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def draw_boxes(result: ImageResult, least: float) -> Image:
    """Return the image, in RGB, with the boxes that score at least so much."""
    kept = above(result.found, least)
    height, width = result.picture.shape[:2]
    scale = np.array([width / result.size[1], height / result.size[0]] * 2, np.float32)
    drawn = draw(result.picture, replace(kept, boxes=kept.boxes * scale), result.classes)
    return np.asarray(cv2.cvtColor(drawn, cv2.COLOR_BGR2RGB), np.uint8)


def to_html(result: ImageResult, least: float) -> str:
    """Return how many objects of each class score so much, and a table of the times of each model."""
    kept = above(result.found, least)
    counts = Counter(result.classes[label] for label in kept.labels)
    each = ', '.join(f'{count} {escape(name)}' for name, count in counts.most_common())
    text = f'<b>{len(kept)}</b> of {len(result.found)} boxes score {least:.2f} or more'
    heads = ''.join(f'<th>{name}</th>' for name in ('ms', *STEPS, 'total'))
    rows = ''.join(_row(name, times) for name, times in result.times.items())
    return (
        f'<p>{text}{": " if each else ""}{each}.</p>'
        f'<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(name: str, times: dict[str, float]) -> str:
    seconds = [times.get(step) for step in STEPS] + [sum(times.values())]
    cells = ''.join(f'<td>{"" if value is None else f"{1000 * value:.1f}"}</td>' for value in seconds)
    return f'<tr><td>{escape(name)}</td>{cells}</tr>'


def to_json(result: ImageResult, least: float) -> str:
    """Return the detections in the layout of ``ghost-det detect --json``, a line for each."""
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

"""What the page shows of an image: read it, find objects in it, and view those above a score."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import PIL.Image

from ghost_det.deploy.detector import Detections, Detector
from ghost_det.deploy.draw import draw
from ghost_det.errors import UserError
from ghost_det.utils.images import MAX_PIXELS, Image, decode_image
from ghost_det.utils.system import require_stack

SHOWN = 1600
"""Pixels of the longer side of what is kept and shown of an image."""
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Of Pillow, that OpenCV reads, too; among its others are some that start programs."""
STEPS = ('prepare', 'network', 'boxes')
QUICK = 0.25
"""Seconds in which a model is run again, and the quickest run told."""


class TimedDetector(Protocol):
    """What is wanted of a detector here."""

    classes: tuple[str, ...]

    def timed(self, image: Image) -> tuple[Detections, dict[str, float]]:
        """See `ghost_det.deploy.Detector.timed`."""


class Model(NamedTuple):
    """A detector, what it is in words, and for torch its config and checkpoint."""

    detector: TimedDetector
    kind: str
    files: tuple[str, str] | None = None


@dataclass(frozen=True)
class Seen:
    """An image and what a model found in it, as it is kept for a visitor.

    Attributes:
        path: of the image.
        note: what there is to know of the file.
        size: height and width of the image, upright.
        picture: the image, made smaller where it is larger than `SHOWN`.
        model: that found.
        classes: of the model.
        found: in pixels of the image, down to the least score that the model gives.
        times: seconds of each step, of every model that was tried on the image.
    """

    path: Path
    note: str
    size: tuple[int, int]
    picture: Image
    model: str
    classes: tuple[str, ...]
    found: Detections
    times: dict[str, dict[str, float]]


def open_models(words: Iterable[str], threads: int | None = None) -> dict[str, Model]:
    """Open detectors, and run each once, as a first run is slow.

    Args:
        words: exported detectors, and configs for torch, each before its checkpoint.
        threads: cores to use.

    Returns:
        The detectors by the name of their file; where names are the same, by more.

    Raises:
        UserError: one cannot be used.
    """
    pairs = list(_pairs(words))
    names = Counter(Path(file).name for _, file in pairs)
    models: dict[str, Model] = {}
    for config, file in pairs:
        model = _open(config, file, threads)
        model.detector.timed(np.zeros((64, 64, 3), np.uint8))
        name = file if names[Path(file).name] > 1 else Path(file).name
        if name in models and config is not None:
            name = f'{name} in {Path(config).stem}'
        if name in models:
            raise UserError(f'{file}: is named twice')
        models[name] = model
    return models


def _pairs(words: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    rest = iter(words)
    for word in rest:
        if Path(word).suffix not in ('', '.py'):
            yield None, word
            continue
        checkpoint = next(rest, None)
        if checkpoint is None:
            raise UserError(f'{word}: after a config, its checkpoint is wanted')
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


def read_upload(path: Path) -> tuple[Image, str]:
    """Return an image as `ghost_det.utils.images.read_image` does, and a note on it, empty for most.

    Raises:
        UserError: it cannot be read, or a part of it is missing, which OpenCV would fill with grey.
    """
    note = ''
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of sizes, which are looked at here
            with PIL.Image.open(path, formats=FORMATS) as file:
                large = file.width * file.height > MAX_PIXELS
                if getattr(file, 'is_animated', False) and file.format != 'MPO':  # a photo and its preview
                    note = f'The first of {getattr(file, "n_frames", 0)} frames.'
                if not large:
                    file.load()
    except PIL.Image.DecompressionBombError:
        large = True
    except FileNotFoundError:
        raise UserError(f'{path.name}: no longer kept here: choose it again') from None
    except Exception as error:  # Pillow's readers raise what they please
        known = isinstance(error, OSError) and not isinstance(error, PIL.UnidentifiedImageError)
        why = 'damaged, or cut short' if known else f'its content is none of {", ".join(FORMATS)}'
        raise UserError(f'{path.name}: no image that can be read: {why}') from None
    if large:
        raise UserError(f'{path.name}: over {MAX_PIXELS // 10**6} megapixels: make it smaller')
    return decode_image(path.read_bytes(), path.name), note


def look(path: Path, name: str, model: Model, before: Seen | None) -> Seen:
    """Find objects in an image.

    Args:
        path: of the image.
        name: of the model.
        model: that finds.
        before: what was seen last, whose times stay where it was of the same image.

    Raises:
        UserError: the image cannot be read, or the model cannot be run.
    """
    image, note = read_upload(path)
    runs = [model.detector.timed(image)]
    if _whole(runs[0]) < QUICK:  # the browser is busy just now, too, and may have the same cores
        runs += [model.detector.timed(image) for _ in range(2)]
    found, times = min(runs, key=_whole)
    height, width = image.shape[:2]
    scale = min(1.0, SHOWN / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    earlier = before.times if before and before.path == path else {}
    return Seen(
        path,
        note,
        (height, width),
        picture,
        name,
        model.detector.classes,
        found,
        {**earlier, name: times},
    )


def _whole(run: tuple[Detections, dict[str, float]]) -> float:
    return sum(run[1].values())


def above(found: Detections, least: float) -> Detections:
    """Return those that score at least so much."""
    kept = found.scores >= np.float32(least)
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def picture(seen: Seen, least: float) -> Image:
    """Return the image with the boxes that score at least so much, in RGB."""
    kept = above(seen.found, least)
    height, width = seen.picture.shape[:2]
    scale = np.array([width / seen.size[1], height / seen.size[0]] * 2, np.float32)
    drawn = draw(seen.picture, replace(kept, boxes=kept.boxes * scale), seen.classes)
    return np.asarray(cv2.cvtColor(drawn, cv2.COLOR_BGR2RGB), np.uint8)


def summary(seen: Seen, least: float) -> str:
    """Return, as HTML, what is found and the time that each model took."""
    kept = above(seen.found, least)
    counts = Counter(seen.classes[label] for label in kept.labels)
    each = ', '.join(f'{count} {escape(name)}' for name, count in counts.most_common())
    text = f'<b>{len(kept)}</b> of {len(seen.found)} boxes score {least:.2f} or more{": " * bool(each)}{each}'
    rows = ''.join(f'<tr><td>{escape(name)}</td>{_cells(times)}</tr>' for name, times in seen.times.items())
    heads = ''.join(f'<th>{name}</th>' for name in (*STEPS, 'whole'))
    return (
        f'<p>{text}. {escape(seen.note)}</p>'
        f'<table><thead><tr><th>ms</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _cells(times: dict[str, float]) -> str:
    milliseconds = [times.get(step) for step in STEPS] + [sum(times.values())]
    return ''.join(f'<td>{"" if t is None else f"{1000 * t:.1f}"}</td>' for t in milliseconds)


def as_json(seen: Seen, least: float) -> str:
    """Return what is found in the layout of ghost-det detect's json, a line for each object."""
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(seen.classes)]
    image = {'id': 1, 'file_name': seen.path.name, 'height': seen.size[0], 'width': seen.size[1]}
    results = above(seen.found, least).to_coco(1, range(1, len(seen.classes) + 1))
    content: dict[str, list[dict[str, Any]]] = {
        'categories': categories,
        'images': [image],
        'results': results,
    }
    lists = [
        f' {json.dumps(key)}: [\n' + ',\n'.join(f'  {json.dumps(each)}' for each in value) + '\n ]'
        for key, value in content.items()
    ]
    return '{\n' + ',\n'.join([f' "model": {json.dumps(seen.model)}', *lists]) + '\n}'

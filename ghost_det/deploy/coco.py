"""What is found in many images as one json file in COCO's format."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import write_or_fail
from ghost_det.utils.images import Image

from .detector import Detections


def say(text: str, stream: TextIO | None = None) -> None:
    """Print next to a progress bar; names may hold bytes that are no text."""
    tqdm.write(text.encode(errors='backslashreplace').decode(), file=stream or sys.stdout)


class Results:
    """What was found: ``content`` is that of the json file."""

    def __init__(self, model: str, classes: Sequence[str]) -> None:
        categories = [{'id': label + 1, 'name': name} for label, name in enumerate(classes)]
        self.content: dict[str, Any] = {'model': model, 'categories': categories}
        self.content |= {'images': [], 'results': [], 'errors': []}
        self._ids = range(1, len(classes) + 1)

    def add(self, name: str, image: Image, found: Detections, **more: Any) -> None:
        """Add what was found in an image."""
        entry = {'id': len(self.content['images']) + 1, 'file_name': name, **more}
        self.content['images'].append({**entry, 'height': image.shape[0], 'width': image.shape[1]})
        self.content['results'] += found.to_coco(entry['id'], self._ids)

    def fail(self, name: str, error: UserError) -> None:
        """Add an image that cannot be used, and print why."""
        say(f'error: {error}', sys.stderr)
        self.content['errors'].append({'file_name': name, 'error': str(error)})


def write_coco(
    path: Path, model: str, classes: Sequence[str], folder: str, tables: Callable[[], Iterable[Any]]
) -> None:
    """Write all results as ``ghost-det detect --json`` does; one of the parts at a time is in memory.

    ``tables`` gives the parts, from the first on at each call. Names of images in ``folder`` leave it out.
    """
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(classes)]
    with write_or_fail(path) as partial, partial.open('w', encoding='utf-8') as file:
        file.write(f'{{"model": {json.dumps(model)}, "categories": {json.dumps(categories)}')
        for section, entries in (('images', _images), ('results', _results), ('errors', _errors)):
            file.write(f',\n"{section}": [')
            separator = '\n'
            rows = (row for table in tables() for row in table.to_pylist())
            for image_id, row in enumerate(rows, 1):
                for entry in entries(image_id, row, f'{folder}/'):
                    file.write(f'{separator}{json.dumps(entry, allow_nan=False)}')
                    separator = ',\n'
            file.write(']')
        file.write('}\n')


def _images(image_id: int, row: dict[str, Any], folder: str) -> Iterator[dict[str, Any]]:
    if row['error'] is None:
        name = row['path'].removeprefix(folder)
        yield {'id': image_id, 'file_name': name, 'height': row['height'], 'width': row['width']}


def _results(image_id: int, row: dict[str, Any], folder: str) -> Iterator[dict[str, Any]]:
    boxes = np.array(row['boxes'], np.float32).reshape(-1, 4)
    scores, labels = np.array(row['scores'], np.float32), np.array(row['labels'], np.int64)
    yield from Detections(boxes, scores, labels).to_coco(image_id, range(1, 2**31))


def _errors(image_id: int, row: dict[str, Any], folder: str) -> Iterator[dict[str, Any]]:
    if row['error'] is not None:
        yield {'file_name': row['path'].removeprefix(folder), 'error': row['error']}

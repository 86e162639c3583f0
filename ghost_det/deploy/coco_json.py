"""Parts of ``ghost-det detect-many`` as one json file, as ``ghost-det detect`` writes it, however large."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic

from .detector import Detections

Tables = Callable[[], Iterable[Any]]
Section = Callable[[int, dict[str, Any], str], Iterable[dict[str, Any]]]
_IDS = range(1, 2**31)  # of categories, by label


def write_coco(path: Path, model: str, classes: Sequence[str], folder: str, tables: Tables) -> None:
    """Write what was found in COCO's format, of which one part at a time is in memory.

    Args:
        path: of the file.
        model: its name.
        classes: by label; COCO's ids count from 1, as those of the images.
        folder: which the names of images in it leave out.
        tables: gives the parts, in order, from the first on at each call.

    Raises:
        UserError: the file cannot be written.
    """
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(classes)]
    sections: dict[str, Section] = {'images': _images, 'results': _results, 'errors': _errors}
    try:
        with atomic(path) as partial, partial.open('w', encoding='utf-8') as file:
            file.write(f'{{"model": {json.dumps(model)}, "categories": {json.dumps(categories)}')
            for name, entries in sections.items():
                file.write(f',\n"{name}": [')
                separator = '\n'
                for image_id, row in enumerate(_rows(tables), 1):
                    for entry in entries(image_id, row, folder):
                        file.write(f'{separator}{json.dumps(entry, allow_nan=False)}')
                        separator = ',\n'
                file.write(']')
            file.write('}\n')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from None


def _rows(tables: Tables) -> Iterator[dict[str, Any]]:
    for table in tables():
        yield from table.to_pylist()


def _name(row: dict[str, Any], folder: str) -> str:
    return str(row['path']).removeprefix(f'{folder}/')


def _images(image_id: int, row: dict[str, Any], folder: str) -> Iterator[dict[str, Any]]:
    if row['error'] is None:
        size = {'height': row['height'], 'width': row['width']}
        yield {'id': image_id, 'file_name': _name(row, folder), **size}


def _results(image_id: int, row: dict[str, Any], folder: str) -> list[dict[str, Any]]:
    boxes = np.array(row['boxes'], np.float32).reshape(-1, 4)
    scores, labels = np.array(row['scores'], np.float32), np.array(row['labels'], np.int64)
    return Detections(boxes, scores, labels).to_coco(image_id, _IDS)


def _errors(image_id: int, row: dict[str, Any], folder: str) -> Iterator[dict[str, Any]]:
    if row['error'] is not None:
        yield {'file_name': _name(row, folder), 'error': row['error']}

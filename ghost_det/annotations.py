"""Reading an annotation file in COCO's format, and finding what is wrong with it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import UserError

FIELDS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}


def has_byte_order_mark(path: Path) -> bool:
    """Tell whether a file is in a form of Unicode that some Windows programs write and pycocotools refuses."""
    with path.open('rb') as file:
        return json.detect_encoding(file.read(4)) != 'utf-8'


@dataclass(frozen=True)
class Survey:
    """What is asked of an annotation file before a training, so that one reading serves all questions.

    Attributes:
        categories: the file's own, in its order.
        used: the ids of categories that have boxes, in the order of their first boxes.
        first_images: the file names of the first images.
        complete: each box has ``area`` and ``iscrowd``, and an id of its own, which is not 0.
        plain: it is in UTF-8, without a byte order mark.
    """

    categories: list[dict[str, Any]]
    used: list[int]
    first_images: list[str]
    complete: bool
    plain: bool


def survey(path: Path, images: int) -> Survey:
    """Read an annotation file once, however often it is asked for while it stays the same.

    Its content, gigabytes for large data sets, is not kept.

    Args:
        path: the file.
        images: how many file names to give.

    Raises:
        UserError: see `read_annotations`.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    return _survey(path, images, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=8)
def _survey(path: Path, images: int, state: tuple[int, ...]) -> Survey:
    content = read_annotations(path)
    boxes = content['annotations']
    ids = {box.get('id') for box in boxes}
    return Survey(
        content['categories'],
        list(dict.fromkeys(box['category_id'] for box in boxes)),
        [image['file_name'] for image in content['images'][:images]],
        complete=all('area' in box and 'iscrowd' in box for box in boxes)
        and len(ids) == len(boxes)
        and not ids & {None, 0},
        plain=not has_byte_order_mark(path),
    )


def read_annotations(path: Path) -> dict[str, Any]:
    """Read a COCO-format annotation file.

    Raises:
        UserError: it cannot be read, is not json, or is not what COCO's format and mmdet ask for.
    """
    try:
        size, memory = path.stat().st_size, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
        if not path.is_file() or 2 * size > memory:  # the bytes and their text are in memory at once
            found = f'{size / 1e9:.1f} GB' if path.is_file() else 'a folder, a pipe or a device'
            raise UserError(f'{path}: a file that fits into {memory / 2e9:.1f} GB is wanted, found {found}')
        content: dict[str, Any] = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    except json.JSONDecodeError as error:
        raise UserError(f'{path}: not json: {error.msg} in line {error.lineno}') from None
    except (ValueError, RecursionError) as error:  # of text that is no UTF-8; of numbers with 5000 digits
        raise UserError(
            f'{path}: not a json file of COCO annotations in UTF-8: {str(error).partition(";")[0][:100]}'
        ) from None
    except MemoryError:
        raise UserError(f'{path}: too large for the memory of this machine: split it') from None
    for key in FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: not COCO's detection format: it has no list '{key}'")
    for key, fields in FIELDS.items():
        for position, entry in enumerate(content[key]):
            fault = _fault(entry, fields)
            if fault:
                raise UserError(f'{path}: {key}[{position}] {fault}')
    for key, field in (('images', 'id'), ('categories', 'id'), ('categories', 'name')):
        values = [entry[field] for entry in content[key]]
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise UserError(f'{path}: two {key} have the {field} {twice!r}; each must have its own')
    if not content['images'] or not content['categories']:
        raise UserError(
            f'{path}: empty: {len(content["images"])} images, {len(content["categories"])} categories'
        )
    for key, field in (('images', 'image_id'), ('categories', 'category_id')):
        known = {entry['id'] for entry in content[key]}
        for position, box in enumerate(content['annotations']):
            if box[field] not in known:
                raise UserError(
                    f'{path}: annotations[{position}] has {field} {box[field]!r}, which none of the {key} has'
                )
    return content


def _fault(entry: Any, fields: tuple[str, ...]) -> str | None:
    """Say what is wrong with one entry, if anything is."""
    for field in fields:
        if not isinstance(entry, dict) or field not in entry:
            return f"has no '{field}'"
        value = entry[field]
        if field in ('file_name', 'name'):
            if not isinstance(value, str) or not value or '\0' in value:
                return f'has the {field} {value!r}; a text is wanted'
        elif field == 'bbox':
            numbers = isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
            if not numbers or value[2] < 0 or value[3] < 0:
                return f'has the bbox {value!r}; [x, y, width, height] is wanted, in pixels'
        elif type(value) is not int:
            return f'has the {field} {value!r}; a whole number is wanted'
        elif field in ('width', 'height') and value < 1:
            return f'has the {field} {value!r}; 1 or more pixels are wanted'
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST  # nor NaN

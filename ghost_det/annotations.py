"""Reading an annotation file in COCO's format, and finding what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import UserError
from .jsons import read_json

FIELDS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}
OPTIONAL = {'annotations': ('id', 'area', 'iscrowd'), 'categories': ('supercategory',)}
_LARGEST = 2**31  # of what pycocotools, faster-coco-eval and float32 hold without loss or overflow


def has_byte_order_mark(path: Path) -> bool:
    """Tell whether a file is in what some Windows programs write and pycocotools refuses."""
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
    content: Any = read_json(path)
    for key in FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: not COCO's detection format: it has no list '{key}'")
    for key, fields in FIELDS.items():
        for position, entry in enumerate(content[key]):
            fault = _fault(entry, fields, OPTIONAL.get(key, ()))
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
    return dict(content)


def _fault(entry: Any, fields: tuple[str, ...], optional: tuple[str, ...] = ()) -> str | None:
    """Say what is wrong with one entry, if anything is."""
    if not isinstance(entry, dict):
        return f'is {_short(entry)}; an object is wanted'
    for field in (*fields, *(name for name in optional if name in entry)):
        if field not in entry:
            return f"has no '{field}'"
        value = entry[field]
        wanted = None
        if field in ('file_name', 'name', 'supercategory'):
            if not isinstance(value, str) or not (value or field == 'supercategory') or not _is_text(value):
                wanted = 'a text'
        elif field == 'bbox':
            numbers = isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
            if not numbers or value[2] < 0 or value[3] < 0:
                wanted = '[x, y, width, height], in pixels,'
        elif field == 'area':
            wanted = None if _is_number(value) else 'a number'
        elif type(value) not in ((int, bool) if field == 'iscrowd' else (int,)) or not _is_number(int(value)):
            wanted = 'a whole number'
        elif field in ('width', 'height') and value < 1:
            wanted = '1 or more pixels'
        if wanted:
            return f'has the {field} {_short(value)}; {wanted} is wanted'
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST  # nor NaN


def _is_text(value: str) -> bool:
    return '\0' not in value and value.encode(errors='replace').decode() == value  # nor half a character


def _short(value: Any) -> str:
    try:
        return repr(value)[:100]
    except ValueError:  # thousands of digits
        return 'a number of thousands of digits'

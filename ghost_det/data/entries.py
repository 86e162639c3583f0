"""The entries of a COCO annotation file: what each must have, and which values can be corrected."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pycocotools import mask

from ghost_det.utils.images import walk
from ghost_det.utils.text import cut

from .findings import Finding, found

FIELDS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}
_FLAG_TEXTS = {'0': 0, '1': 1, '0.0': 0, '1.0': 1, 'false': 0, 'true': 1}
_NUMBERS = {int, float}
_RUN_LENGTHS = re.compile('(?:[P-o]{0,6}[0-O])+')  # COCO's text: 5 bits a character, `P` to `o` continue
MAX_ID = 2**62


def entry_fault(entry: Any, fields: Sequence[str]) -> str | None:
    """Return what is wrong with the form of one entry, ``None`` if nothing is."""
    if type(entry) is not dict:
        return f"has no '{fields[0]}'"
    for field in fields:
        if field not in entry:
            return f"has no '{field}'"
        value = entry[field]
        if field == 'bbox':
            if type(value) is not list or len(value) != 4 or not _NUMBERS.issuperset(map(type, value)):
                return f'has the bbox {short(value)}; expected [x, y, width, height] in pixels'
        elif field in ('file_name', 'name'):
            if not isinstance(value, str) or not value or '\0' in value:
                return f'has the {field} {short(value)}; expected a text'
        elif type(value) is not int or not -MAX_ID < value < MAX_ID:
            return f'has the {field} {short(value)}; expected a whole number'
    for flag in ('iscrowd', 'ignore') if 'bbox' in fields else ():
        if as_flag(entry.get(flag)) is None:
            return f'has {flag} {short(entry[flag])}; expected 0 or 1'
    return None


def short(value: Any) -> str:
    """Return a value as text, cut to 60 characters."""
    return cut(repr(value), 60)


def as_flag(value: Any) -> int | None:
    """Return ``iscrowd`` or ``ignore`` as 0 or 1, ``None`` where its meaning is not certain."""
    if value is None:
        return 0
    if isinstance(value, str):
        return _FLAG_TEXTS.get(value.strip().lower())
    return int(value) if value in (0, 1) else None


def as_number(value: Any) -> float | None:
    """Return a number, also one in quotes."""
    try:
        return value if type(value) in _NUMBERS else float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def area_of(box: dict[str, Any]) -> float:
    """Return the ``area`` of an annotation, that of its box where it is missing or impossible."""
    area = as_number(box.get('area'))
    _, _, width, height = box['bbox']
    return area if area is not None and 0 < area < 2**53 else width * height


def corrections(box: dict[str, Any]) -> dict[str, Any]:
    """Return correct values of ``area``, ``iscrowd`` and ``ignore`` where others would misread them."""
    correct: dict[str, Any] = {}
    area = area_of(box)
    if type(box.get('area')) not in _NUMBERS or box['area'] != area:
        correct['area'] = area
    for flag, value in (('iscrowd', box.get('iscrowd')), ('ignore', box.get('ignore', 0))):
        if type(value) is not int:
            correct[flag] = as_flag(value)
    return correct


def complete_box(box: dict[str, Any]) -> None:
    """Correct an annotation in place; flags without a certain meaning stay."""
    box.update({key: value for key, value in corrections(box).items() if value is not None})


def correction_kind(box: dict[str, Any], key: str, value: Any) -> str | None:
    """Return the kind of problem that a correction solves, ``None`` if it is not worth reporting."""
    given = box.get(key)
    if given is None:
        return None if key == 'ignore' else 'no area or iscrowd'
    if key == 'area' and as_number(given) != value:
        return 'impossible area'
    return 'number as text' if isinstance(given, str) else None


def is_rotated(box: dict[str, Any]) -> bool:
    """Return whether CVAT has rotated an object, whose box it leaves upright."""
    attributes = box.get('attributes')
    angle = as_number(attributes.get('rotation')) if isinstance(attributes, dict) else None
    return angle is not None and math.isfinite(angle) and angle % 180 != 0


def polygon_extent(polygons: Any) -> list[float] | None:
    """Return the box [x, y, width, height] around a list of polygons, ``None`` if it is not one."""
    if type(polygons) is not list or not polygons:
        return None
    if not all(type(each) is list and len(each) > 5 and len(each) % 2 == 0 for each in polygons):
        return None
    points = polygons[0] if len(polygons) == 1 else list(chain.from_iterable(polygons))
    xs, ys = points[::2], points[1::2]
    try:
        x, y = min(xs), min(ys)
        extent = [float(x), float(y), float(max(xs) - x), float(max(ys) - y)]
    except (TypeError, OverflowError):  # not numbers, or too large for a float
        return None
    return extent if math.isfinite(sum(extent)) else None


def mask_extent(code: Any) -> list[float] | None:
    """Return the box around a run-length mask, ``None`` if it is not one: some would crash pycocotools."""
    size, counts = (code.get('size'), code.get('counts')) if isinstance(code, dict) else (None, None)
    if type(size) is not list or len(size) != 2 or not all(type(n) is int and 0 < n < 2**16 for n in size):
        return None
    if isinstance(counts, list):
        if not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != size[0] * size[1]:
            return None
        code = mask.frPyObjects(code, *size)
    elif not isinstance(counts, str) or not _RUN_LENGTHS.fullmatch(counts):
        return None
    x, y, width, height = mask.toBbox(code).tolist()
    inside = x + width <= size[1] and y + height <= size[0]
    return [x, y, width, height] if width and height and inside else None


def normalize(content: dict[str, Any], folder: Path) -> list[Finding]:
    """Correct, in place, values in another form with one meaning; return what was corrected.

    An image without a size gets the size 0. Backslashes in names of files in ``folder`` are kept.
    """
    places: dict[str, list[str]] = defaultdict(list)

    def change(kind: str, key: str, position: int, field: str, value: Any) -> None:
        entry = content[key][position]
        given = short(entry.get(field))
        places[kind].append(f'{key}[{position}] has the {field} {given}, read as {short(value)}')
        entry[field] = value

    objects = {key: [(n, e) for n, e in enumerate(content[key]) if isinstance(e, dict)] for key in FIELDS}
    for n, box in objects['annotations']:
        outline = None if box.get('bbox') else box.get('segmentation')
        extent = polygon_extent(outline) or mask_extent(outline)
        if extent:
            change('no bbox', 'annotations', n, 'bbox', extent)
    names = [(n, image.get('file_name')) for n, image in objects['images']]
    windows = [(n, name) for n, name in names if isinstance(name, str) and '\\' in name]
    if windows and not any('\\' in file for file in walk(folder)):
        for n, name in windows:
            change('name in another form', 'images', n, 'file_name', name.replace('\\', '/'))
    for n, category in objects['categories']:
        if type(category.get('name')) in _NUMBERS:
            change('name in another form', 'categories', n, 'name', str(category['name']))
    for key, field in (('images', 'image_id'), ('categories', 'category_id')):
        ids = [entry.get('id') for _, entry in objects[key]]
        labels = dict.fromkeys(value for value in ids if type(value) is str and _whole(value) is None)
        free = max((number for number in map(_whole, ids) if number is not None), default=0) + 1
        numbers: dict[Any, int] = dict(zip(labels, range(free, free + len(labels))))
        for part, name in ((key, 'id'), ('annotations', field)):
            for n, entry in objects[part]:
                value = entry.get(name)
                number = numbers.get(value, _whole(value)) if type(value) in (str, float) else None
                if number is not None:
                    change('id as text', part, n, name, number)
    for n, image in objects['images']:
        given = {side: image.get(side) for side in ('width', 'height')}
        wrong = [side for side, value in given.items() if type(value) is not int or value < 1]
        if wrong and entry_fault(image, ('id', 'file_name')) is None:
            place = f'images[{n}] ({image["file_name"]})'
            places['image without size'].append(
                f'{place}: {", ".join(f"{s} {short(given[s])}" for s in wrong)}'
            )
            image.update({side: max(0, _whole(given[side]) or 0) for side in wrong})
    return [finding for kind, where in places.items() for finding in found(kind, '', where)]


def _whole(value: Any) -> int | None:
    """Return the whole number that a value is or stands for, ``None`` if it does not."""
    if isinstance(value, str):
        return int(value) if re.fullmatch('0|-?[1-9][0-9]{0,18}', value) else None
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None

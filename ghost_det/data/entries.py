"""The entries of a COCO annotation file: what each must have, and which values can be corrected."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, count
from typing import Any

from pycocotools import mask

from ghost_det.utils.text import cut

MAX_ID = 2**62
_FLAGS = {'0': 0, '1': 1, '0.0': 0, '1.0': 1, 'false': 0, 'true': 1}

_RUN_LENGTHS = re.compile('(?:[P-o]{0,6}[0-O])+')  # COCO's text: 5 bits a character, `P` to `o` continue


def short(value: Any) -> str:
    """Return a value as text, cut to 60 characters."""
    return cut(repr(value), 60)


def as_flag(value: Any) -> int | None:
    """Return ``iscrowd`` or ``ignore`` as 0 or 1, ``None`` where its meaning is not certain."""
    if value is None:
        return 0
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    return int(value) if value in (0, 1) else None


def as_number(value: Any) -> float | None:
    """Return a number, also one in quotes."""
    try:
        return value if type(value) in (int, float) else float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _is_whole(value: Any) -> bool:
    return type(value) is int and -MAX_ID < value < MAX_ID


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != '' and '\0' not in value


def _is_box(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(type(n) is float or _is_whole(n) for n in value)


def _is_flag(value: Any) -> bool:
    return as_flag(value) is not None


FIELDS = {
    'images': {'id': _is_whole, 'file_name': _is_text, 'width': _is_whole, 'height': _is_whole},
    'annotations': {
        'image_id': _is_whole,
        'category_id': _is_whole,
        'bbox': _is_box,
        'iscrowd': _is_flag,
        'ignore': _is_flag,
    },
    'categories': {'id': _is_whole, 'name': _is_text},
}
"""Lists of a COCO file, and what each entry must have."""


def entry_fault(entry: Any, key: str) -> str | None:
    """Return what is wrong with an entry of one of the `FIELDS`, ``None`` if nothing is."""
    if type(entry) is not dict:
        return f'is {short(entry)}'
    for field, is_valid in FIELDS[key].items():
        if not is_valid(entry.get(field)):
            return f'{field} is {short(entry[field]) if field in entry else "missing"}'
    return None


def area_of(box: dict[str, Any]) -> float:
    """Return the ``area`` of an annotation, that of its box where it is missing or impossible."""
    area = as_number(box.get('area'))
    _, _, width, height = box['bbox']
    return area if area is not None and 0 < area < 2**53 else width * height


def corrections(box: dict[str, Any]) -> dict[str, Any]:
    """Return correct values of ``area``, ``iscrowd`` and ``ignore`` where others would misread them."""
    correct = {'area': area_of(box), 'iscrowd': as_flag(box.get('iscrowd'))}
    if 'ignore' in box:
        correct['ignore'] = as_flag(box['ignore'])
    return {
        field: value
        for field, value in correct.items()
        if value is not None and (type(box.get(field)) is not type(value) or box[field] != value)
    }


def complete_box(box: dict[str, Any]) -> None:
    """Correct an annotation in place; flags without a certain meaning stay."""
    box.update(corrections(box))


def correction_kinds(box: dict[str, Any], correct: dict[str, Any]) -> Iterator[str]:
    """Yield the kinds of problems that the `corrections` of a box solve."""
    for field, value in correct.items():
        given = box.get(field)
        if given is None and field != 'ignore':
            yield 'no area or iscrowd'
        elif field == 'area' and as_number(given) != value:
            yield 'impossible area'
        elif isinstance(given, str):
            yield 'number as text'


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
    except (TypeError, ValueError, OverflowError):  # not numbers, or too large for a float
        return None
    return extent if math.isfinite(sum(extent)) else None


def mask_extent(code: Any) -> list[float] | None:
    """Return the box around a run-length mask, ``None`` if it is not one: some would crash pycocotools."""
    size, counts = (code.get('size'), code.get('counts')) if type(code) is dict else (None, None)
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


def normalize(content: dict[str, Any]) -> dict[str, list[str]]:
    """Correct, in place, values in another form with one meaning; return the places of each kind.

    An image without a size gets the size 0.
    """
    places: dict[str, list[str]] = defaultdict(list)

    def change(kind: str, key: str, position: int, field: str, value: Any) -> None:
        entry = content[key][position]
        places[kind].append(f'{key}[{position}]: {field} {short(entry.get(field))}, read as {short(value)}')
        entry[field] = value

    objects = {key: [(n, e) for n, e in enumerate(content[key]) if type(e) is dict] for key in FIELDS}
    for n, box in objects['annotations']:
        outline = None if box.get('bbox') else box.get('segmentation')
        extent = polygon_extent(outline) or mask_extent(outline)
        if extent:
            change('no bbox', 'annotations', n, 'bbox', extent)
    for n, category in objects['categories']:
        if type(category.get('name')) in (int, float):
            change('name in another form', 'categories', n, 'name', str(category['name']))
    for n, image in objects['images']:
        name, sides = image.get('file_name'), [image.get('width'), image.get('height')]
        if isinstance(name, str) and '\\' in name:
            change('name in another form', 'images', n, 'file_name', name.replace('\\', '/'))
        if not all(type(side) is int and side > 0 for side in sides):
            places['image without size'].append(f'images[{n}] ({name}): {short(sides)}')
            image['width'], image['height'] = (max(0, _whole(side) or 0) for side in sides)
    for key, field in (('images', 'image_id'), ('categories', 'category_id')):
        ids = [entry.get('id') for _, entry in objects[key]]
        numbers = {value: _whole(value) for value in ids if type(value) in (int, float, str)}
        free = count(max((number for number in numbers.values() if number is not None), default=0) + 1)
        labels = [value for value, number in numbers.items() if number is None and type(value) is str]
        numbers |= zip(labels, free)
        for part, name in ((key, 'id'), ('annotations', field)):
            for n, entry in objects[part]:
                value = entry.get(name)
                number = numbers.get(value, _whole(value)) if type(value) in (float, str) else None
                if number is not None:
                    change('id as text', part, n, name, number)
    return places


def _whole(value: Any) -> int | None:
    """Return the whole number that a value is or stands for, ``None`` if it does not."""
    if isinstance(value, str):
        return int(value) if re.fullmatch('0|-?[1-9][0-9]{0,18}', value) else None
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None

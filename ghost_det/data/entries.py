"""The entries of a COCO annotation file: what each must have, and which values can be corrected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
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
    """Return ``iscrowd`` or ``ignore`` as 0 or 1, ``None`` if its meaning is not certain."""
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


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch('0|-?[1-9][0-9]{0,18}', value):
        value = int(value)
    elif type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -MAX_ID < value < MAX_ID else None


def _side(value: Any) -> int:
    return max(0, _whole(value) or 0)


def _text(value: Any) -> str | None:
    text = str(value) if type(value) in (int, float) else value
    return text if isinstance(text, str) and text and '\0' not in text else None


def _path(value: Any) -> str | None:
    text = _text(value)
    return text and text.replace('\\', '/')


def _box(value: Any) -> list[float] | None:
    if type(value) is not list or len(value) != 4:
        return None
    return value if all(type(n) is float or (type(n) is int and abs(n) < MAX_ID) for n in value) else None


_ID, _NAME, _SIZE = (_whole, 'id as text'), (_text, 'name in another form'), (_side, 'image without size')
_BOX, _FLAG = (_box, ''), (as_flag, '')  # `complete_box` corrects flags
FIELDS: dict[str, dict[str, tuple[Callable[[Any], Any], str]]] = {
    'images': {'id': _ID, 'file_name': (_path, _NAME[1]), 'width': _SIZE, 'height': _SIZE},
    'annotations': {'image_id': _ID, 'category_id': _ID, 'bbox': _BOX, 'iscrowd': _FLAG, 'ignore': _FLAG},
    'categories': {'id': _ID, 'name': _NAME},
}
"""What each entry of a list must have: readers, which return ``None`` for invalid values, and the kind of
problem that another form of a valid value is."""


def read_entry(key: str, entry: Any, numbers: dict[tuple[str, str], dict[str, int]]) -> dict[str, str]:
    """Correct ids, names and sizes of an entry in place; return its kinds of problems, and the values.

    ``numbers`` are of `number_names`. The kind is '' for what only `complete_box` has to correct.
    """
    if type(entry) is not dict:
        return {'wrong entry': short(entry)}
    problems: dict[str, str] = {}
    if key == 'annotations' and not entry.get('bbox'):
        outline = entry.get('segmentation')
        extent = polygon_extent(outline) or mask_extent(outline)
        if extent:
            problems['no bbox'] = f'computed: {extent}'
            entry['bbox'] = extent
    for field, (read, kind) in FIELDS[key].items():
        given = entry.get(field)
        names = numbers.get((key, field), {})
        value = read(names.get(given, given) if type(given) is str else given)
        if value is None:
            return {'wrong entry': f'{field} is {short(given) if field in entry else "missing"}'}
        if kind and (type(value) is not type(given) or value != given or (read is _side and not value)):
            was = 'missing' if given is None else short(given)
            problems.setdefault(kind, f'{field} is {was}' + f', read as {short(value)}' * bool(value))
            entry[field] = value
    return problems | (complete_box(dict(entry)) if key == 'annotations' else {})


def number_names(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, int]]:
    """Return free numbers for ids that are names, for each list and field that has them."""
    numbers = {}
    for key, field in (('images', 'image_id'), ('categories', 'category_id')):
        ids = [entry.get('id') for entry in content[key] if type(entry) is dict]
        free = count(max((n for n in map(_whole, ids) if n is not None), default=0) + 1)
        names = dict.fromkeys(each for each in ids if type(each) is str and _whole(each) is None)
        numbers[key, 'id'] = numbers['annotations', field] = dict(zip(names, free))
    return numbers


def area_of(box: dict[str, Any]) -> float:
    """Return the ``area`` of an annotation, that of its box if it is missing or impossible."""
    area = as_number(box.get('area'))
    _, _, width, height = box['bbox']
    return area if area is not None and 0 < area < 2**53 else width * height


def complete_box(box: dict[str, Any]) -> dict[str, str]:
    """Correct ``area``, ``iscrowd`` and ``ignore`` in place where others would misread them.

    Flags without a certain meaning stay. Returns what `read_entry` does.
    """
    problems: dict[str, str] = {}
    correct = {'area': area_of(box), 'iscrowd': as_flag(box.get('iscrowd'))}
    if 'ignore' in box:
        correct['ignore'] = as_flag(box['ignore'])
    for field, value in correct.items():
        given = box.get(field)
        if value is None or (type(given) is type(value) and given == value):
            continue
        kind = 'number as text' if isinstance(given, str) else ''
        if given is None and field != 'ignore':
            kind = 'no area or iscrowd'
        elif field == 'area' and as_number(given) != value:
            kind = 'impossible area'
        problems.setdefault(kind, f'{field} {short(given)}')
        box[field] = value
    return problems


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

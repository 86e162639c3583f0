"""One entry of a COCO annotation file: what it must have, and what can be corrected."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghost_det.utils.images import walk

from .findings import Finding, found
from .outlines import outline_extents

FIELDS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}
FLAGS = ('iscrowd', 'ignore')
_FLAG_TEXTS = {'0': 0, '1': 1, '0.0': 0, '1.0': 1, 'false': 0, 'true': 1}
_NUMBERS = {int, float}
MAX_ID = 2**62


def entry_fault(entry: Any, fields: Sequence[str]) -> str | None:
    """Say what is wrong with the form of one entry, if anything is; quick for those that are sound."""
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
    if 'bbox' in fields:
        for flag in FLAGS:
            if flag in entry and as_flag(entry[flag]) is None:
                return f'has {flag} {short(entry[flag])}; expected 0 or 1'
    return None


def all_sound(content: dict[str, Any]) -> bool:
    """Tell whether no entry has a fault, and `straighten` would change none."""
    return (
        all(entry_fault(entry, fields) is None for key, fields in FIELDS.items() for entry in content[key])
        and all(image['width'] > 0 < image['height'] for image in content['images'])
        and not any('\\' in image['file_name'] for image in content['images'])
    )


def short(value: Any) -> str:
    """Return a value as text, cut to 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # of whole numbers with thousands of digits
        return 'of too many digits'
    return text if len(text) <= 60 else f'{text[:57]}...'


def as_flag(value: Any) -> int | None:
    """Return ``iscrowd`` or ``ignore`` as 0 or 1, ``None`` where its meaning is not certain."""
    if value is None:  # as if it were left out
        return 0
    if isinstance(value, str):
        return _FLAG_TEXTS.get(value.strip().lower())
    return int(value) if value in (0, 1) else None


def as_number(value: Any) -> float | None:
    """Return a number, also of a text that is one."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if type(value) in _NUMBERS else None


def area_of(box: dict[str, Any]) -> float:
    """Return the ``area`` of an annotation, that of its box where it is missing or cannot be."""
    area = as_number(box.get('area'))
    _, _, width, height = box['bbox']
    return area if area is not None and 0 < area < 2**53 else width * height


def corrections(box: dict[str, Any]) -> dict[str, Any]:
    """Return what of ``area``, ``iscrowd`` and ``ignore`` mmdet or COCO's evaluators misread, corrected."""
    found: dict[str, Any] = {}
    area = area_of(box)
    if type(box.get('area')) not in _NUMBERS or box['area'] != area:
        found['area'] = area
    for flag, value in (('iscrowd', box.get('iscrowd')), ('ignore', box.get('ignore', 0))):
        if type(value) is not int:
            found[flag] = as_flag(value)
    return found


def complete_box(box: dict[str, Any]) -> None:
    """Correct an annotation in place; flags of no certain meaning stay."""
    box.update({key: value for key, value in corrections(box).items() if value is not None})


def correction_kind(box: dict[str, Any], key: str, value: Any) -> str | None:
    """Name the kind of fault that is corrected, if it is one."""
    given = box.get(key)
    if given is None:
        return None if key == 'ignore' else 'no area or iscrowd'
    if key == 'area' and as_number(given) != value:
        return 'impossible area'
    return 'number as text' if isinstance(given, str) else None


def is_rotated(box: dict[str, Any]) -> bool:
    """Tell whether CVAT has turned an object: its box is that of before."""
    attributes = box.get('attributes')
    angle = as_number(attributes.get('rotation')) if isinstance(attributes, dict) else None
    return angle is not None and math.isfinite(angle) and angle % 180 != 0


def straighten(content: dict[str, Any], split: str, folder: Path) -> list[Finding]:
    """Correct, in place, what has another form but one meaning; a size that is none becomes 0."""
    places: dict[str, list[str]] = defaultdict(list)

    def change(kind: str, key: str, position: int, field: str, value: Any) -> None:
        entry = content[key][position]
        given = f'the {field} {short(entry[field])}' if field in entry else f'no {field}'
        places[kind].append(f'{key}[{position}] has {given}, read as {short(value)}')
        entry[field] = value

    objects = {key: [(n, e) for n, e in enumerate(content[key]) if isinstance(e, dict)] for key in FIELDS}
    bare = [(n, box) for n, box in objects['annotations'] if not box.get('bbox')]
    for (n, _), extent in zip(bare, outline_extents([box for _, box in bare]).tolist()):
        if math.isfinite(sum(extent)):
            change('no bbox', 'annotations', n, 'bbox', extent)
    names = [(n, image.get('file_name')) for n, image in objects['images']]
    slashes = [(n, name.replace('\\', '/')) for n, name in names if isinstance(name, str) and '\\' in name]
    if slashes and not any('\\' in file for file in walk(folder)):
        for n, name in slashes:
            change('name in another form', 'images', n, 'file_name', name)
    for n, category in objects['categories']:
        if type(category.get('name')) in _NUMBERS:
            change('name in another form', 'categories', n, 'name', str(category['name']))
    for key, field in (('images', 'image_id'), ('categories', 'category_id')):
        ids = [entry.get('id') for _, entry in objects[key]]
        free = max((number for number in map(_whole, ids) if number is not None), default=0) + 1
        labels = dict.fromkeys(value for value in ids if type(value) is str and _whole(value) is None)
        numbers: dict[Any, int] = dict(zip(labels, range(free, free + len(labels))))
        for part, name in ((key, 'id'), ('annotations', field)):
            for n, entry in objects[part]:
                value = entry.get(name)
                number = numbers.get(value, _whole(value)) if type(value) in (str, float) else None
                if number is not None:
                    change('id as text', part, n, name, number)
    for n, image in objects['images']:
        if entry_fault(image, ('id', 'file_name')) is None:
            wrong = [f for f in ('width', 'height') if type(image.get(f)) is not int or image[f] < 1]
            if wrong:
                given = [f'the {f} {short(image[f])}' if f in image else f'no {f}' for f in wrong]
                place = f'images[{n}] ({image["file_name"]}) has {" and ".join(given)}'
                places['image without size'].append(place)
                image.update({field: max(0, _whole(image.get(field)) or 0) for field in wrong})
    return [each for kind in places for each in found(kind, split, places[kind])]


def _whole(value: Any) -> int | None:
    """Return the whole number that a value is or stands for, if it does."""
    if type(value) is str and len(value) < 20 and value.removeprefix('-').isdecimal():
        return int(value) if str(int(value)) == value else None
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None

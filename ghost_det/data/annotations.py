"""Reading an annotation file in COCO's format, and finding what is wrong with it."""

from __future__ import annotations

import gc
import json
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghost_det.errors import UserError
from ghost_det.utils.files import explain_os_error, read_json

from .entries import (
    FIELDS,
    as_flag,
    complete_box,
    is_rotated,
    number_names,
    polygon_extent,
    read_entry,
    short,
)
from .findings import SHOWN, Finding, found
from .table import Table, box_faults, unlike_polygons

Entries = Sequence[dict[str, Any]]
FIXED = ('byte order mark', 'duplicate box id', 'no area or iscrowd', 'no boxes')
"""Kinds of problems that do not matter with ``--data``: copies lack them, or other checks find them."""
ALIGNED = ('number as text', 'empty duplicate category', 'name in another form')
"""Kinds that are corrected in copies, and that spoil or stop a training without ``--data``."""
CONVERTED = (
    'wrong label file',
    'missing file',
    'label file without image',
    'image without labels',
    'data not used',
    'wrong size',
    'turned boxes',
)
"""Kinds of findings that `convert` lists in the ``info`` of the files it writes."""
MANY = 0.1  # share of images without labels above which they are hardly all background
NO_BOXES = 'it has none, or all of its boxes are crowds or have ignore; nothing to learn from'
SHOWN_FIELDS = {
    'duplicate box id': 'id',
    'unknown image': 'image_id',
    'unknown category': 'category_id',
    'rotated box': 'attributes',
}
"""What is shown of boxes with these kinds of problems; of others it is the ``bbox``."""


class Survey(NamedTuple):
    """An annotation file: its valid entries as arrays, and what is wrong with it."""

    table: Table
    findings: list[Finding]


def survey(path: Path) -> Survey:
    """Read an annotation file, once while it stays the same; its content, maybe gigabytes, is not kept."""
    with explain_os_error(path, 'read'):
        state = path.stat()
    return _survey(path, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=8)
def _survey(path: Path, state: tuple[int, ...]) -> Survey:
    return Survey(*load(path)[1:])


def load(path: Path, split: str = '') -> tuple[Any, Table, list[Finding]]:
    """Return the content of an annotation file, its valid entries as arrays, and what is wrong with it."""
    collecting = gc.isenabled()
    gc.disable()  # it would look through millions of new objects again and again
    try:
        content = read_json(path)
        table, findings = read_table(content)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    finally:
        if collecting:
            gc.enable()
    info = content.get('info')
    for kind in CONVERTED:
        places = info.get(kind) if isinstance(info, dict) else None
        places = list(map(str, places)) if isinstance(places, list) else []
        many = kind == 'image without labels' and len(places) > MANY * len(table.files)
        findings += found(kind, '', places, severity='warning' if many else None)
    if has_byte_order_mark(path):
        findings += found('byte order mark', '', ['its first bytes'])
    return content, table, [replace(finding, split=split) for finding in findings]


def has_byte_order_mark(path: Path) -> bool:
    """Return whether a file starts with what some Windows programs write and pycocotools refuses."""
    with path.open('rb') as file:
        return json.detect_encoding(file.read(4)) != 'utf-8'


def read_table(content: Any) -> tuple[Table, list[Finding]]:
    """Return the valid entries of a json as arrays, and what is wrong; `ValueError` if not COCO's.

    Ids, names and sizes in another form are corrected in place; areas and flags are not.
    """
    for key in FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"not COCO's detection format: it has no list '{key}'")
    numbers = number_names(content)
    places: dict[str, list[str]] = defaultdict(list)
    at: dict[str, list[int]] = {key: [] for key in FIELDS}
    for key in FIELDS:
        for n, entry in enumerate(content[key]):
            problems = read_entry(key, entry, numbers)
            for kind, text in problems.items():
                places[kind].append(f'{key}[{n}]: {text}')
            if 'wrong entry' not in problems:
                at[key].append(n)
    images, boxes, categories = ([content[key][n] for n in at[key]] for key in FIELDS)
    image_of = {image['id']: n for n, image in reversed(list(enumerate(images)))}
    category_of = {category['id']: n for n, category in reversed(list(enumerate(categories)))}
    ids = [box.get('id') for box in boxes]
    numbered = {*map(type, ids)} <= {int} and 0 not in ids and len({*ids}) == len(ids)
    extents = [polygon_extent(box.get('segmentation')) or [math.nan] * 4 for box in boxes]
    table = Table(
        files=[image['file_name'] for image in images],
        sizes=np.array([(image['width'], image['height']) for image in images], np.int64).reshape(-1, 2),
        images_at=np.array(at['images'], np.int64),
        categories=categories,
        boxes=np.array([box['bbox'] for box in boxes], np.float64).reshape(-1, 4),
        image=np.array([image_of.get(box['image_id'], -1) for box in boxes], np.int64),
        category=np.array([category_of.get(box['category_id'], -1) for box in boxes], np.int64),
        boxes_at=np.array(at['annotations'], np.int64),
        no_area=np.array([type(box.get('area')) in (int, float) and box['area'] <= 0 for box in boxes], bool),
        crowd=np.array([as_flag(box.get('iscrowd')) for box in boxes], bool),
        ignored=np.array([as_flag(box.get('ignore')) for box in boxes], bool),
        complete=numbered and not places,
        extents=np.array(extents, np.float64).reshape(-1, 4),
    )
    findings = [each for kind, where in places.items() if kind for each in found(kind, '', where)]
    if not images or not categories:
        findings += found('empty split', '', [f'{len(images)} images, {len(categories)} categories'])
    return table, findings + _check_table(table, images, boxes)


def _check_table(table: Table, images: Entries, boxes: Entries) -> list[Finding]:
    """Return what is wrong with valid entries."""
    names = [category['name'] for category in table.categories]
    classes, duplicates = table.classes(), table.empty_duplicates()
    learnt = {*table.category[~(table.crowd | table.ignored)].tolist()} - {-1}
    of_categories: dict[str, Any] = {
        'duplicate category id': _repeated(category['id'] for category in table.categories),
        'duplicate category name': _repeated(name if n in classes else None for n, name in enumerate(names)),
        'empty duplicate category': [n in duplicates for n in range(len(names))],
        'category without boxes': [n in classes and n not in learnt for n in range(len(names))],
    }
    of_images: dict[str, Any] = {
        'duplicate image id': _repeated(image['id'] for image in images),
        'duplicate file name': _repeated(table.files),
        'image without boxes': np.bincount(table.image[table.image >= 0], minlength=len(images)) == 0,
    }
    rows = np.column_stack([table.image, table.category, table.boxes, table.crowd]).tolist()
    of_boxes: dict[str, Any] = {
        'duplicate box id': _repeated(box.get('id') for box in boxes),
        'unknown image': table.image < 0,
        'unknown category': table.category < 0,
        'rotated box': [is_rotated(box) for box in boxes],
        **box_faults(table),
        'box unlike its polygon': unlike_polygons(table),
        'same box twice': _repeated(map(tuple, rows)),
        'ignored box': table.ignored,
        'crowd box': table.crowd,
    }

    def box_text(kind: str, n: int) -> str:
        field = SHOWN_FIELDS.get(kind, 'bbox')
        text = f'{table.box_place(n)}: {field} {short(boxes[n][field])}'
        if kind == 'box unlike its polygon':
            text += ', its polygon spans [{:.6g}, {:.6g}, {:.6g}, {:.6g}]'.format(*table.extents[n])
        elif field == 'bbox' and table.image[n] >= 0:
            text += ' in {} x {}'.format(*table.sizes[table.image[n]])
        return text

    findings = [] if learnt else found('no boxes', '', [NO_BOXES])
    for masks, text in (
        (of_categories, lambda _, n: f'categories[{n}]: {names[n]!r}'),
        (of_images, lambda _, n: table.image_place(n)),
        (of_boxes, box_text),
    ):
        for kind, mask in masks.items():
            at = np.flatnonzero(mask)
            # A box that sticks out by chance may fit as corners as well; most boxes do not.
            doubtful = kind == 'corners for sizes' and 2 * len(at) < len(boxes)
            places = (text(kind, n) for n in at)
            findings += found(kind, '', places, len(at), 'warning' if doubtful else None)
    return findings


def _repeated(values: Iterable[Any]) -> list[bool]:
    """Return which values equal an earlier one; ``None`` and what cannot be an id never do."""
    first: dict[Any, int] = {}
    return [
        value is not None and isinstance(value, Hashable) and first.setdefault(value, n) != n
        for n, value in enumerate(values)
    ]


def refuse_faults(faults: Sequence[tuple[Path, Finding]]) -> None:
    """Raise a `UserError` that lists the errors among pairs of annotation file and finding."""
    errors = [(path, fault) for path, fault in faults if fault.severity == 'error']
    if errors:
        lines = '\n'.join(f'  {path}: {fault.line(3)}: {fault.fix}' for path, fault in errors[:SHOWN])
        more = f'\n  and {len(errors) - SHOWN} more kinds' if len(errors) > SHOWN else ''
        raise UserError(
            f'problems in the data:\n{lines}{more}\n'
            f'ghost-det check-data on the same data lists more places and how to fix them; '
            'its --fix FOLDER writes a fixed copy'
        )


def complete_boxes(content: dict[str, Any]) -> None:
    """Correct boxes in place, and number them from 1: COCO's matcher takes id 0 for "no match"."""
    for number, box in enumerate(content['annotations'], start=1):
        complete_box(box)
        box['id'] = number


def read_annotations(path: Path) -> dict[str, Any]:
    """Read a COCO-format annotation file, without its empty duplicates of categories."""
    content, table, findings = load(path)
    refuse_faults([(path, fault) for fault in findings if fault.kind not in FIXED])
    duplicates = table.empty_duplicates()
    return {
        **content,
        'categories': [c for n, c in enumerate(content['categories']) if n not in duplicates],
    }

"""Reading an annotation file in COCO's format, and finding what is wrong with it."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghost_det.errors import UserError
from ghost_det.utils.files import read_json
from ghost_det.utils.text import plural

from .consistency import duplicate_entries, faulty_boxes, found_at, unknown_ids
from .entries import (
    FIELDS,
    all_sound,
    as_flag,
    complete_box,
    correction_kind,
    corrections,
    entry_fault,
    is_rotated,
    short,
    straighten,
)
from .findings import SHOWN, Finding, found
from .outlines import polygon_extents
from .table import Floats, Table

FIXED = ('byte order mark', 'duplicate box id', 'no area or iscrowd', 'no boxes')
"""Kinds of faults that do not matter with ``--data``: aligned copies lack them, or other checks find them."""
ALIGNED = ('number as text', 'empty duplicate category', 'name in another form')
"""Kinds that aligned copies lack, and that spoil or stop a training where there is none."""
CONVERTED = (
    'wrong label file',
    'missing file',
    'label file without image',
    'image without labels',
    'data not used',
    'wrong size',
    'turned boxes',
)
"""Kinds of findings that `convert` lists in the ``info`` of the files that it makes."""
FOREIGN = {
    'LabelMe': (('"shapes"', '"imagePath"'), 'its examples have labelme2voc.py, which writes Pascal VOC'),
    'Label Studio': (('"original_width"', '"original_height"'), 'export it as COCO or YOLO'),
    'VGG Image Annotator (VIA)': (('"shape_attributes"',), 'Annotation > Export Annotations (COCO format)'),
    'CreateML': (('"annotations"', '"coordinates"'), 'convert it to COCO, as Roboflow does'),
    'CVAT XML': (('<annotations>', '<image '), 'export the task as COCO 1.0'),
}
"""Formats that are not read: what the start of a file has, and how to come to one that is."""
MANY = 0.1  # of the images: more without labels are hardly background


def foreign(path: Path) -> str:
    """Return the end of a message that names the format of a file that is not read, if it is known."""
    try:
        with path.open('rb') as file:
            start = file.read(2**16).decode(errors='replace')
    except OSError:
        return ''
    for name, (marks, way) in FOREIGN.items():
        if all(mark in start for mark in marks):
            return f'; {path.name} is of {name}: {way}'
    return ''


def has_byte_order_mark(path: Path) -> bool:
    """Tell whether a file is in what some Windows programs write and pycocotools refuses."""
    with path.open('rb') as file:
        return json.detect_encoding(file.read(4)) != 'utf-8'


class Survey(NamedTuple):
    """An annotation file: its sound entries as arrays, and what is wrong with it."""

    table: Table
    findings: list[Finding]


def survey(path: Path) -> Survey:
    """Read an annotation file once while it stays the same; its content, maybe gigabytes, is not kept."""
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    return _survey(path, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=8)
def _survey(path: Path, state: tuple[int, ...]) -> Survey:
    _, table, findings = load(path)
    return Survey(table, findings)


def load(path: Path, split: str = '') -> tuple[Any, Table, list[Finding]]:
    """Return what an annotation file says, the sound part of it as arrays, and what is wrong."""
    collecting = gc.isenabled()
    gc.disable()  # which would look through millions of new objects again and again
    try:
        content = read_json(path)
        folder = path.parent.parent if path.parent.name.lower() == 'annotations' else path.parent
        table, findings = read_table(content, split, folder)
    except ValueError as error:
        raise UserError(f'{path}: {error}{foreign(path)}') from None
    finally:
        if collecting:
            gc.enable()
    info = content.get('info')
    for kind in CONVERTED:
        places = info.get(kind) if isinstance(info, dict) else None
        places = list(map(str, places)) if isinstance(places, list) else []
        many = kind == 'image without labels' and len(places) > MANY * len(table.files)
        findings += found(kind, split, places, severity='warning' if many else None)
    if has_byte_order_mark(path):
        findings += found('byte order mark', split, ['its first three bytes'])
    return content, table, findings


def read_table(content: Any, split: str, folder: Path) -> tuple[Table, list[Finding]]:
    """Make arrays of what json says, and list what is wrong; `ValueError` where it is not COCO's at all."""
    for key in FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"not COCO's detection format: it has no list '{key}'")
    findings: list[Finding] = []
    at = {key: list(range(len(content[key]))) for key in FIELDS}
    if not all_sound(content):
        findings += straighten(content, split, folder)
        faults = {key: [entry_fault(entry, FIELDS[key]) for entry in content[key]] for key in FIELDS}
        at = {key: [n for n, fault in enumerate(faults[key]) if not fault] for key in FIELDS}
        wrong = (f'{key}[{n}] {fault}' for key in FIELDS for n, fault in enumerate(faults[key]) if fault)
        findings += found('wrong entry', split, [*wrong])
    images, boxes, categories = ([content[key][n] for n in at[key]] for key in FIELDS)
    image_of = {image['id']: n for n, image in reversed(list(enumerate(images)))}
    category_of = {category['id']: n for n, category in reversed(list(enumerate(categories)))}
    ids = [box.get('id') for box in boxes]
    odd = {n: fixed for n, box in enumerate(boxes) if (fixed := corrections(box))}
    renamed = any(finding.kind == 'name in another form' for finding in findings)
    table = Table(
        [image['file_name'] for image in images],
        np.array([(image['width'], image['height']) for image in images], np.int64).reshape(-1, 2),
        np.array(at['images'], np.int64),
        categories,
        _numbers([box['bbox'] for box in boxes]),
        np.array([image_of.get(box['image_id'], -1) for box in boxes], np.int64),
        np.array([category_of.get(box['category_id'], -1) for box in boxes], np.int64),
        np.array(at['annotations'], np.int64),
        np.array([_float(box.get('area')) for box in boxes], np.float64),
        np.array([as_flag(box.get('iscrowd')) for box in boxes], bool),
        np.array([as_flag(box.get('ignore')) for box in boxes], bool),
        not (odd or renamed or {*map(type, ids)} - {int} or len({*ids}) < len(ids) or 0 in ids),
        polygon_extents(boxes),
    )
    findings += duplicate_entries(table, split, images, ids) + unknown_ids(table, split, boxes)
    kinds: dict[str, dict[int, str]] = {}
    for n, key, value in ((n, *each) for n, fixed in odd.items() for each in fixed.items()):
        kind = correction_kind(boxes[n], key, value)
        if kind:
            kinds.setdefault(kind, {}).setdefault(n, f'{key} {short(boxes[n].get(key))}')
    for kind, given in kinds.items():
        places = (f'{table.box_place(n)}: {what}' for n, what in given.items())
        findings += found(kind, split, places, len(given))
    findings += found_at('ignored box', split, table.ignored, table.box_place)
    findings += found_at('rotated box', split, [is_rotated(box) for box in boxes], table.box_place)
    if not images or not categories:
        counts = plural(len(content['images']), 'image'), plural(len(content['categories']), 'category')
        findings += found('empty split', split, [f'empty: {", ".join(counts)}'])
    return table, findings + faulty_boxes(table, split)


def _numbers(boxes: list[list[float]]) -> Floats:
    try:
        return np.array(boxes, np.float64).reshape(-1, 4)
    except OverflowError:  # a whole number that no float can hold
        return np.array([[_float(value) for value in box] for box in boxes]).reshape(-1, 4)


def _float(value: Any) -> float:
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.inf


def refuse_faults(faults: Sequence[tuple[Path, Finding]]) -> None:
    """Raise a `UserError` that lists the errors among pairs of annotation file and finding."""
    errors = [(path, fault) for path, fault in faults if fault.severity == 'error']
    if errors:
        lines = '\n'.join(f'  {path}: {fault.line(3)}: {fault.fix}' for path, fault in errors[:SHOWN])
        more = f'\n  and {len(errors) - SHOWN} more kinds' if len(errors) > SHOWN else ''
        raise UserError(
            f'problems in the data:\n{lines}{more}\n'
            f'ghost-det check-data, given the same data, lists more places and how to fix them; '
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
    twins = table.twins()
    return {**content, 'categories': [c for n, c in enumerate(content['categories']) if n not in twins]}

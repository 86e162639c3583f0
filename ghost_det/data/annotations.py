"""Reading an annotation file in COCO's format, and finding what is wrong with it."""

from __future__ import annotations

import gc
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghost_det.errors import UserError
from ghost_det.utils.files import read_json
from ghost_det.utils.text import plural

from .entries import (
    FIELDS,
    as_flag,
    complete_box,
    correction_kind,
    corrections,
    entry_fault,
    is_rotated,
    normalize,
    polygon_extent,
    short,
)
from .findings import SHOWN, Finding, found
from .table import Floats, Table, box_faults, repeated, unlike_polygons

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
MANY = 0.1  # share of the images from which those without labels are hardly background


class Survey(NamedTuple):
    """An annotation file: its valid entries as arrays, and what is wrong with it."""

    table: Table
    findings: list[Finding]


def survey(path: Path) -> Survey:
    """Read an annotation file, once while it stays the same; its content, maybe gigabytes, is not kept."""
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
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
        folder = path.parent.parent if path.parent.name.lower() == 'annotations' else path.parent
        table, findings = read_table(content, folder)
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


def read_table(content: Any, folder: Path) -> tuple[Table, list[Finding]]:
    """Return the valid entries of a json as arrays, and what is wrong; `ValueError` if not COCO's."""
    for key in FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"not COCO's detection format: it has no list '{key}'")
    findings = normalize(content, folder)
    faults = {key: [entry_fault(entry, FIELDS[key]) for entry in content[key]] for key in FIELDS}
    at = {key: [n for n, fault in enumerate(faults[key]) if not fault] for key in FIELDS}
    wrong = [f'{key}[{n}] {fault}' for key in FIELDS for n, fault in enumerate(faults[key]) if fault]
    images, boxes, categories = ([content[key][n] for n in at[key]] for key in FIELDS)
    image_of = {image['id']: n for n, image in reversed(list(enumerate(images)))}
    category_of = {category['id']: n for n, category in reversed(list(enumerate(categories)))}
    ids = [box.get('id') for box in boxes]
    odd = {n: correct for n, box in enumerate(boxes) if (correct := corrections(box))}
    complete = not findings and not odd and {*map(type, ids)} <= {int} and 0 not in ids
    table = Table(
        files=[image['file_name'] for image in images],
        sizes=np.array([(image['width'], image['height']) for image in images], np.int64).reshape(-1, 2),
        images_at=np.array(at['images'], np.int64),
        categories=categories,
        boxes=_boxes([box['bbox'] for box in boxes]),
        image=np.array([image_of.get(box['image_id'], -1) for box in boxes], np.int64),
        category=np.array([category_of.get(box['category_id'], -1) for box in boxes], np.int64),
        boxes_at=np.array(at['annotations'], np.int64),
        area=np.array([_float(box.get('area')) for box in boxes], np.float64),
        crowd=np.array([as_flag(box.get('iscrowd')) for box in boxes], bool),
        ignored=np.array([as_flag(box.get('ignore')) for box in boxes], bool),
        complete=complete and len({*ids}) == len(ids),
        extents=_boxes([polygon_extent(box.get('segmentation')) or [math.nan] * 4 for box in boxes]),
    )
    findings += found('wrong entry', '', wrong)
    findings += _duplicates(table, [image['id'] for image in images], ids)
    findings += _unknown_ids(table, boxes) + _unused(table)
    kinds: dict[str, dict[int, str]] = defaultdict(dict)
    for n, key, value in ((n, *each) for n, correct in odd.items() for each in correct.items()):
        kind = correction_kind(boxes[n], key, value)
        if kind:
            kinds[kind].setdefault(n, f'{table.box_place(n)}: {key} {short(boxes[n].get(key))}')
    for kind, places in kinds.items():
        findings += found(kind, '', places.values())
    findings += _marked('rotated box', [is_rotated(box) for box in boxes], table.box_place)
    if not images or not categories:
        counts = plural(len(content['images']), 'image'), plural(len(content['categories']), 'category')
        findings += found('empty split', '', [f'empty: {", ".join(counts)}'])
    return table, findings + _faulty_boxes(table)


def _boxes(boxes: list[list[float]]) -> Floats:
    try:
        return np.array(boxes, np.float64).reshape(-1, 4)
    except OverflowError:  # a whole number that no float can hold
        return np.array([[_float(value) for value in box] for box in boxes]).reshape(-1, 4)


def _float(value: Any) -> float:
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.inf


def _marked(kind: str, mask: Any, place: Callable[[int], str]) -> list[Finding]:
    """Return the finding of those that a mask (n,) marks."""
    at = np.flatnonzero(mask)
    return found(kind, '', map(place, at), len(at))


def _duplicates(table: Table, image_ids: list[Any], box_ids: list[Any]) -> list[Finding]:
    """Return findings of ids and names that two entries have."""
    categories, classes = table.categories, table.classes()
    at_category = 'categories[{}]'.format
    twins = [f'{at_category(n)}: {categories[n]["name"]!r}' for n in table.twins()]
    findings = found('empty duplicate category', '', twins)
    names = [category['name'] if n in classes else None for n, category in enumerate(categories)]
    for kind, what, values, place in (
        ('duplicate image id', 'images have the id', image_ids, table.image_place),
        ('duplicate category id', 'categories have the id', [c['id'] for c in categories], at_category),
        ('duplicate category name', 'categories have the name', names, at_category),
        ('duplicate file name', 'images have the name', table.files, table.image_place),
        ('duplicate box id', 'boxes have the id', box_ids, table.box_place),
    ):
        findings += found(kind, '', [f'{place(n)}: two {what} {values[n]!r}' for n in _second(values)])
    return findings


def _second(values: Sequence[Any]) -> Iterator[int]:
    """Yield the indices of values that equal an earlier one; those that cannot be ids are ignored."""
    seen: set[Any] = set()
    for index, value in enumerate(values):
        if value is not None and not isinstance(value, list | dict):
            if value in seen:
                yield index
            seen.add(value)


def _unknown_ids(table: Table, boxes: list[Any]) -> list[Finding]:
    """Return findings of boxes with the id of no image or no category."""
    findings = []
    for kind, index, field in (
        ('unknown image', table.image, 'image_id'),
        ('unknown category', table.category, 'category_id'),
    ):
        lost = np.flatnonzero(index < 0)
        findings += found(
            kind, '', (f'{table.box_place(n)} has the {field} {boxes[n][field]!r}' for n in lost), len(lost)
        )
    return findings


def _unused(table: Table) -> list[Finding]:
    """Return findings of images and categories without boxes to learn from."""
    counts = table.counts()
    grouped = table.crowd | table.ignored
    if grouped[table.category >= 0].all():
        why = 'all of its boxes are crowds or have ignore' if counts.sum() else 'it has images but no boxes'
        return found('no boxes', '', [f'{why}; nothing to learn from'])
    learnt = {*table.category[~grouped].tolist()}
    empty = [
        repr(table.categories[n]['name']) + ': only crowds, or with ignore' * bool(counts[n])
        for n in table.classes()
        if n not in learnt
    ]
    bare = np.bincount(table.image[table.image >= 0], minlength=len(table.files)) == 0
    findings = found('category without boxes', '', empty)
    return findings + _marked('image without boxes', bare, table.image_place)


def _faulty_boxes(table: Table) -> list[Finding]:
    """Return findings of impossible, repeated, ignored and crowd boxes."""

    def box_text(n: int) -> str:
        image = table.image[n]
        size = f' in {table.sizes[image][0]} x {table.sizes[image][1]}' if image >= 0 else ''
        return f'{table.box_place(n)}: bbox {_text(table.boxes[n])}{size}'

    def outline_text(n: int) -> str:
        bbox = _text(table.boxes[n])
        return f'{table.box_place(n)}: bbox {bbox}, its polygon spans {_text(table.extents[n])}'

    findings = []
    for kind, mask in box_faults(table).items():
        # A box that sticks out by chance may fit as corners as well; most boxes do not.
        doubtful = kind == 'corners for sizes' and 2 * mask.sum() < len(table.boxes)
        at = np.flatnonzero(mask)
        findings += found(kind, '', map(box_text, at), len(at), 'warning' if doubtful else None)
    rows = np.column_stack([table.image, table.category, table.boxes, table.crowd])
    findings += _marked('box unlike its polygon', unlike_polygons(table), outline_text)
    findings += _marked('same box twice', repeated(rows), table.box_place)
    findings += _marked('ignored box', table.ignored, table.box_place)
    return findings + _marked('crowd box', table.crowd, table.box_place)


def _text(box: Floats) -> str:
    return f'[{", ".join(f"{value:.6g}" for value in box)}]'


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

"""Reading an annotation file in COCO's format, and finding what is wrong with it."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ghost_det.data.checks.findings import SHOWN, Finding, found
from ghost_det.errors import UserError
from ghost_det.utils.files import read_json

from .table import Table, complete_box, read_table

MENDED = ('byte order mark', 'duplicate box id', 'no area or iscrowd', 'no boxes')
"""Kinds of faults that do not matter with ``--data``: aligned copies lack them, or other checks find them."""
ALIGNED = ('number as text', 'empty duplicate category', 'name in another form')
"""Kinds that aligned copies lack, and that spoil or stop a training where there is none."""
CONVERTED = {
    'faults': 'wrong label file',
    'missing images': 'missing file',
    'labels without image': 'label file without image',
    'images without label': 'image without labels',
    'unused': 'data not used',
    'wrong sizes': 'wrong size',
    'turned': 'turned boxes',
}
"""Lists in the ``info`` of what `convert` makes, and the kinds of what is in them."""
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
    """Read an annotation file once, however often it is asked for while it stays the same.

    Its content, gigabytes for large data sets, is not kept.

    Raises:
        UserError: it cannot be read, or is not COCO's format at all.
    """
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
    """Return what an annotation file says, the sound part of it as arrays, and what is wrong.

    Raises:
        UserError: it cannot be read, is not json, or is not COCO's format at all.
    """
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
    for field, kind in CONVERTED.items():
        places = info.get(field) if isinstance(info, dict) else None
        places = list(map(str, places)) if isinstance(places, list) else []
        many = kind == 'image without labels' and len(places) > MANY * len(table.files)
        findings += found(kind, split, places, severity='warning' if many else None)
    if has_byte_order_mark(path):
        findings += found('byte order mark', split, ['its first three bytes'])
    return content, table, findings


def refuse_faults(faults: Sequence[tuple[Path, Finding]]) -> None:
    """Raise a `UserError` that lists the errors among pairs of annotation file and finding."""
    errors = [(path, fault) for path, fault in faults if fault.severity == 'error']
    if errors:
        lines = '\n'.join(f'  {path}: {fault.line(3)}: {fault.mend}' for path, fault in errors[:SHOWN])
        more = f'\n  and {len(errors) - SHOWN} more kinds' if len(errors) > SHOWN else ''
        raise UserError(
            f'problems in the data:\n{lines}{more}\n'
            f'ghost-det check-data, given the same data, lists more places and how to fix them; '
            'its --fix FOLDER writes a fixed copy'
        )


def complete_boxes(content: dict[str, Any]) -> None:
    """Give boxes, in place, what mmdet and COCO's evaluation need: see `complete_box`, and ids from 1 on.

    Its matcher takes id 0 for "no match".
    """
    for number, box in enumerate(content['annotations'], start=1):
        complete_box(box)
        box['id'] = number


def read_annotations(path: Path) -> dict[str, Any]:
    """Read a COCO-format annotation file, without its empty duplicates of categories.

    Raises:
        UserError: see `load`; or there are errors in it that `aligned_annotations` does not fix.
    """
    content, table, findings = load(path)
    refuse_faults([(path, fault) for fault in findings if fault.kind not in MENDED])
    twins = table.twins()
    return {**content, 'categories': [c for n, c in enumerate(content['categories']) if n not in twins]}

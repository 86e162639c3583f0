"""Reading an annotation file in COCO's format, and finding what is wrong with it."""

from __future__ import annotations

<<<<<<< HEAD
import json
=======
import codecs
import gc
import json
from collections.abc import Sequence
>>>>>>> main
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import UserError
<<<<<<< HEAD
from .jsons import read_json

FIELDS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}
OPTIONAL = {'annotations': ('id', 'area', 'iscrowd'), 'categories': ('supercategory',)}
_LARGEST = 2**31  # of what pycocotools, faster-coco-eval and float32 hold without loss or overflow
=======
from .preflight.findings import SHOWN, Finding, found
from .preflight.table import Table, read_table

MENDED = ('byte order mark', 'duplicate box id', 'no area or iscrowd', 'no boxes')
"""Kinds of faults that do not matter with ``--data``: aligned copies lack them, or another check tells."""
>>>>>>> main


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
        files: the file names of the images.
        complete: each box has ``area`` and ``iscrowd``, and an id of its own, which is not 0.
<<<<<<< HEAD
        plain: it is in UTF-8, without a byte order mark.
=======
        plain: it starts without a byte order mark.
        findings: what is wrong with it.
>>>>>>> main
    """

    categories: list[dict[str, Any]]
    used: list[int]
    files: list[str]
    complete: bool
    plain: bool
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
    plain = not has_byte_order_mark(path)
    return Survey(table.categories, table.used(), table.files, table.complete, plain, findings)


def load(path: Path, split: str = '') -> tuple[Any, Table, list[Finding]]:
    """Read an annotation file with all its faults.

    Args:
        path: the file.
        split: its name, for the findings.

    Returns:
        its content, the sound part of it as arrays, what is wrong.

    Raises:
        UserError: it cannot be read, is not json, or is not COCO's format at all.
    """
<<<<<<< HEAD
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
=======
    collecting = gc.isenabled()
    gc.disable()  # which would look through millions of new objects again and again
    try:
        content: Any = json.loads(path.read_bytes())
        table, findings = read_table(content, split)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    except (UnicodeDecodeError, RecursionError):
        raise UserError(f'{path}: not a json file; COCO annotations are wanted') from None
    except json.JSONDecodeError as error:
        raise UserError(f'{path}: not json: {error.msg} in line {error.lineno}') from None
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    finally:
        if collecting:
            gc.enable()
    info = content.get('info')
    faults = info.get('faults') if isinstance(info, dict) else None  # of `convert`
    findings += found('wrong label file', split, map(str, faults if isinstance(faults, list) else []))
    if has_byte_order_mark(path):
        findings += found('byte order mark', split, ['its first three bytes'])
    return content, table, findings


def refuse_faults(faults: Sequence[tuple[Path, Finding]]) -> None:
    """Stop where there are errors among the findings.

    Args:
        faults: pairs of annotation file and finding.

    Raises:
        UserError: it lists them.
    """
    errors = [(path, fault) for path, fault in faults if fault.severity == 'error']
    if errors:
        lines = '\n'.join(f'  {path}: {fault.line(3)}' for path, fault in errors[:SHOWN])
        more = f'\n  and {len(errors) - SHOWN} more kinds' if len(errors) > SHOWN else ''
>>>>>>> main
        raise UserError(
            f'mistakes in the data:\n{lines}{more}\n'
            'python tools/check_data.py, given the same data, says more places and how to mend them; '
            'its --fix FOLDER writes a mended copy'
        )
<<<<<<< HEAD
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
=======


def complete_boxes(content: dict[str, Any]) -> None:
    """Give boxes, in place, what COCO's evaluation needs: ``area``, ``iscrowd``, ids from 1 on.

    Its matcher takes id 0 for "no match".
    """
    for number, box in enumerate(content['annotations'], start=1):
        box.setdefault('area', box['bbox'][2] * box['bbox'][3])
        box.setdefault('iscrowd', 0)
        box['id'] = number


def read_annotations(path: Path) -> dict[str, Any]:
    """Read a COCO-format annotation file.

    Raises:
        UserError: see `load`; or there are errors in it that `aligned_annotations` does not mend.
    """
    content, _, findings = load(path)
    refuse_faults([(path, fault) for fault in findings if fault.kind not in MENDED])
    return dict(content)
>>>>>>> main

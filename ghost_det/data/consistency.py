"""What is wrong between the entries of an annotation file: ids that do not fit, boxes that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .findings import Finding, found
from .table import Floats, Table, box_faults, repeated, unlike_polygons


def found_at(kind: str, split: str, mask: Any, place: Callable[[int], str]) -> list[Finding]:
    """Return the finding of those that a mask (n,) marks."""
    at = np.flatnonzero(mask)
    return found(kind, split, map(place, at), len(at))


def duplicate_entries(table: Table, split: str, images: list[Any], box_ids: list[Any]) -> list[Finding]:
    """List ids and names that two entries have."""
    categories, classes = table.categories, table.classes()
    at_category = 'categories[{}]'.format
    twins = [f'{at_category(n)}: {categories[n]["name"]!r}' for n in table.twins()]
    findings = found('empty duplicate category', split, twins)
    names = [category['name'] if n in classes else None for n, category in enumerate(categories)]
    for kind, what, values, place in (
        ('duplicate image id', 'images have the id', [image['id'] for image in images], table.image_place),
        ('duplicate category id', 'categories have the id', [c['id'] for c in categories], at_category),
        ('duplicate category name', 'categories have the name', names, at_category),
        ('duplicate file name', 'images have the name', table.files, table.image_place),
        ('duplicate box id', 'boxes have the id', box_ids, table.box_place),
    ):
        findings += found(kind, split, (f'{place(n)}: two {what} {values[n]!r}' for n in _second(values)))
    return findings


def _second(values: Sequence[Any]) -> Iterator[int]:
    """Yield the indices of values that an earlier one equals; those that are no ids are passed over."""
    seen: set[Any] = set()
    for index, value in enumerate(values):
        if value is None or isinstance(value, list | dict):
            continue
        if value in seen:
            yield index
        seen.add(value)


def unknown_ids(table: Table, split: str, boxes: list[Any]) -> list[Finding]:
    """List boxes of images and categories that there are not, and those without boxes."""
    findings = []
    for kind, index, field in (
        ('unknown image', table.image, 'image_id'),
        ('unknown category', table.category, 'category_id'),
    ):
        lost = np.flatnonzero(index < 0)
        places = (f'{table.box_place(n)} has the {field} {boxes[n][field]!r}' for n in lost)
        findings += found(kind, split, places, len(lost))
    counts = table.counts()
    grouped = table.crowd | table.ignored
    if grouped[table.category >= 0].all():
        there = 'all of its boxes are crowds or have ignore' if counts.sum() else 'it has images but no boxes'
        return findings + found('no boxes', split, [f'{there}; nothing to learn from'])
    learnt = {*table.category[~grouped].tolist()}
    empty = [
        repr(table.categories[index]['name']) + ': only crowds, or with ignore' * bool(counts[index])
        for index in table.classes()
        if index not in learnt
    ]
    findings += found('category without boxes', split, empty)
    bare = np.bincount(table.image[table.image >= 0], minlength=len(table.files)) == 0
    return findings + found_at('image without boxes', split, bare, table.image_place)


def faulty_boxes(table: Table, split: str) -> list[Finding]:
    """List what is wrong with the numbers of boxes, and the crowds."""

    def text(index: int) -> str:
        image = table.image[index]
        size = f' in {table.sizes[image][0]} x {table.sizes[image][1]}' if image >= 0 else ''
        return f'{table.box_place(index)}: bbox {_text(table.boxes[index])}{size}'

    findings = []
    for kind, mask in box_faults(table).items():
        # A box that sticks out by chance may fit as corners as well; most boxes do not.
        doubtful = kind == 'corners for sizes' and 2 * mask.sum() < len(table.boxes)
        at = np.flatnonzero(mask)
        findings += found(kind, split, map(text, at), len(at), 'warning' if doubtful else None)
    at = np.flatnonzero(unlike_polygons(table))
    places = (
        f'{table.box_place(n)}: bbox {_text(table.boxes[n])}, its polygon spans {_text(table.extents[n])}'
        for n in at
    )
    findings += found('box unlike its polygon', split, places, len(at))
    rows: Floats = np.column_stack([table.image, table.category, table.boxes, table.crowd])
    findings += found_at('same box twice', split, repeated(rows), table.box_place)
    return findings + found_at('crowd box', split, table.crowd, table.box_place)


def _text(box: Floats) -> str:
    return f'[{", ".join(f"{value:.6g}" for value in box)}]'

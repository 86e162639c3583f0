"""An annotation file as arrays, read with all its faults, which are listed."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghost_det.utils.images import walk
from ghost_det.utils.text import plural

from .findings import SHOWN, Finding, found

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
FIELDS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('image_id', 'category_id', 'bbox'),
    'categories': ('id', 'name'),
}
IOU = 0.5  # from which on an anchor reaches a box
SIZES = ('small', 'medium', 'large')  # of COCO: areas up to 32² px, 96² px, and over, in the original image
FLAGS = ('iscrowd', 'ignore')
_TEXTS = {'0': 0, '1': 1, '0.0': 0, '1.0': 1, 'false': 0, 'true': 1}
LIMITS = (32.0**2, 96.0**2)  # in px, of areas that are small and medium to COCO
ALIKE = 0.9  # IoU of a box and the extent of its polygons, from which they agree
SLACK = 2.0  # px that an edge may move by rounding, and by conventions of where a pixel ends
TINY = 3  # px
CHUNK = 20_000
_LENGTHS = range(6, 2**62, 2)  # of a polygon's coordinates
FAR = 0.1  # of the image's side: what sticks out further and fits as corners was written as corners


@dataclass(frozen=True)
class Table:
    """The sound entries of an annotation file, n boxes on m images, as arrays.

    Attributes:
        files: m file names.
        sizes: (m, 2) widths and heights in pixels, 0 where the file does not say.
        images_at: (m,) positions in the json.
        categories: those of the file, in its order.
        boxes: (n, 4) x, y, width, height in pixels.
        image: (n,) index of a box's image in ``files``, -1 if there is none.
        category: (n,) index of its category, -1 if there is none.
        boxes_at: (n,) positions in the json.
        area: (n,) as the file says it, NaN where that is no number.
        crowd: (n,) whether it is a group.
        ignored: (n,) whether it has ``ignore``.
        complete: each box has ``area`` and ``iscrowd`` as numbers that can be, and an id of its own, not 0.
        extents: (n, 4) what the polygons of a box span, as ``boxes``; NaN where it has none.
    """

    files: list[str]
    sizes: Ints
    images_at: Ints
    categories: list[dict[str, Any]]
    boxes: Floats
    image: Ints
    category: Ints
    boxes_at: Ints
    area: Floats
    crowd: Mask
    ignored: Mask
    complete: bool
    extents: Floats

    def used(self) -> list[Any]:
        """Return the ids of the categories that have boxes, in the order of the first boxes."""
        known, first = np.unique(self.category[self.category >= 0], return_index=True)
        return [self.categories[index]['id'] for index in known[np.argsort(first)]]

    def by_size(self) -> Ints:
        """Return how many sound boxes each category has with areas up to each of `LIMITS`, and over."""
        counts = np.zeros((len(self.categories), len(LIMITS) + 1), np.int64)
        sound = sound_boxes(self)
        size = np.digitize(self.boxes[sound, 2:].prod(1), LIMITS)
        np.add.at(counts, (self.category[sound], size), 1)
        return counts

    def counts(self) -> Ints:
        """Return how many boxes each category has."""
        return np.bincount(self.category[self.category >= 0], minlength=len(self.categories))

    def classes(self) -> list[int]:
        """Return the indices of the categories that are classes.

        One without boxes is none where it only names the group of others (Roboflow writes one), or has the
        name of another.
        """
        counts = self.counts()
        groups = [c.get('supercategory') for c in self.categories if c.get('supercategory') != c['name']]
        taken = {category['name'] for category, count in zip(self.categories, counts) if count}
        found = []
        for index, category in enumerate(self.categories):
            name = category['name']
            if counts[index] or (name not in groups and name not in taken):
                found.append(index)
                taken.add(name)
        return found

    def twins(self) -> list[int]:
        """Return the indices of the categories without boxes that have the name of another."""
        classes = self.classes()
        names = {self.categories[index]['name'] for index in classes}
        others = sorted(set(range(len(self.categories))) - set(classes))
        return [index for index in others if self.categories[index]['name'] in names]

    def image_place(self, index: int) -> str:
        """Name an image for a person."""
        return f'images[{self.images_at[index]}] ({self.files[index]})'

    def box_place(self, index: int) -> str:
        """Name a box for a person."""
        image = self.image[index]
        file = f' ({self.files[image]})' if image >= 0 else ''
        return f'annotations[{self.boxes_at[index]}]{file}'


def sound_boxes(table: Table) -> Mask:
    """Return which boxes have an image, a category, finite numbers and a size, (n,)."""
    finite = np.isfinite(table.boxes).all(1)
    return np.asarray(
        finite & (table.image >= 0) & (table.category >= 0) & (table.boxes[:, 2:] > 0).all(1), dtype=bool
    )


def read_table(content: Any, split: str, folder: Path | None = None) -> tuple[Table, list[Finding]]:
    """Make arrays of what json says, and list what is wrong with its entries, ids and boxes.

    Args:
        content: of the annotation file.
        split: its name, for the findings.
        folder: of the data set, to see whether names of its files have backslashes.

    Raises:
        ValueError: it is not COCO's format at all.
    """
    for key in FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"not COCO's detection format: it has no list '{key}'")
    wrong: list[str] = []
    sound = all(_all_sound(content[key], key) for key in FIELDS)
    findings = [] if sound else straighten(content, split, folder)
    (images, images_at), (boxes, boxes_at), (categories, _) = (
        (content[key], np.arange(len(content[key]))) if sound else _sound(content, key, wrong)
        for key in FIELDS
    )
    findings += found('wrong entry', split, wrong)
    image_of = {image['id']: n for n, image in reversed(list(enumerate(images)))}
    category_of = {category['id']: n for n, category in reversed(list(enumerate(categories)))}
    ids = [box.get('id') for box in boxes]
    odd = [n for n, box in enumerate(boxes) if not is_complete(box)]
    complete = not odd and set(map(type, ids)) <= {int} and len(set(ids)) == len(ids) and 0 not in ids
    complete = complete and all(finding.kind != 'name in another form' for finding in findings)
    table = Table(
        [image['file_name'] for image in images],
        np.array([(image['width'], image['height']) for image in images], np.int64).reshape(-1, 2),
        images_at,
        categories,
        _numbers([box['bbox'] for box in boxes]),
        np.array([image_of.get(box['image_id'], -1) for box in boxes], np.int64),
        np.array([category_of.get(box['category_id'], -1) for box in boxes], np.int64),
        boxes_at,
        np.array([_float(box.get('area')) for box in boxes], np.float64),
        np.array([as_flag(box.get('iscrowd')) for box in boxes], bool),
        np.array([as_flag(box.get('ignore')) for box in boxes], bool),
        complete,
        polygon_extents(boxes),
    )
    findings += _duplicates(table, split, images, categories, ids)
    findings += _unknown(table, split, boxes)
    faults: dict[str, dict[int, str]] = {}
    for n, key in ((n, key) for n in odd for key in ('area', *FLAGS)):
        kind = _value_fault(boxes[n], key)
        if kind:
            faults.setdefault(kind, {}).setdefault(n, key)
    for kind, keys in faults.items():
        places = (f'{table.box_place(n)}: {key} {_short(boxes[n].get(key))}' for n, key in keys.items())
        findings += found(kind, split, places, len(keys))
    ignored = np.flatnonzero(table.ignored)
    findings += found('ignored box', split, map(table.box_place, ignored), len(ignored))
    turned = [table.box_place(n) for n, box in enumerate(boxes) if _rotated(box)]
    findings += found('rotated box', split, turned)
    if not images or not categories:
        pictures, names = (
            plural(len(content[key]), noun) for key, noun in (('images', 'image'), ('categories', 'category'))
        )
        findings += found('empty split', split, [f'empty: {pictures}, {names}'])
    return table, findings + check_boxes(table, split)


def straighten(content: dict[str, Any], split: str, folder: Path | None = None) -> list[Finding]:
    """Put right, in place, what has another form but one meaning; a size that is none becomes 0."""
    names: list[str] = []
    separators = cache(lambda: folder is None or not any('\\' in file for file in walk(folder)))
    for key, field in (('images', 'file_name'), ('categories', 'name')):
        for position, entry in enumerate(content[key]):
            value = entry.get(field) if isinstance(entry, dict) else None
            text = str(value) if key == 'categories' and type(value) in (int, float) else value
            if key == 'images' and isinstance(value, str) and '\\' in value and separators():
                text = value.replace('\\', '/')
            if text is not value and text != value:
                names.append(f'{key}[{position}] has the {field} {_short(value)}, read as {_short(text)}')
                entry[field] = text
    boxes = content['annotations']
    bare = [n for n, box in enumerate(boxes) if isinstance(box, dict) and not box.get('bbox')]
    drawn: list[str] = []
    for n, extent in zip(bare, outlines([boxes[n] for n in bare]).tolist()):
        if math.isfinite(sum(extent)):
            boxes[n]['bbox'] = extent
            drawn.append(f'annotations[{n}]: its outline spans {_short(extent)}')
    findings = found('no bbox', split, drawn) + found('name in another form', split, names)
    texts: list[str] = []
    for key, field in (('images', 'image_id'), ('categories', 'category_id')):
        ids = [entry.get('id') for entry in content[key] if isinstance(entry, dict)]
        free = max((number for number in map(_whole, ids) if number is not None), default=0) + 1
        labels = dict.fromkeys(value for value in ids if type(value) is str and _whole(value) is None)
        numbers = dict(zip(labels, range(free, free + len(labels))))
        for part, name in ((key, 'id'), ('annotations', field)):
            for position, entry in enumerate(content[part]):
                value = entry.get(name) if isinstance(entry, dict) else None
                number = _whole(value) if type(value) in (str, float) else None
                if number is None and type(value) is str:
                    number = numbers.get(value)
                if number is not None:
                    texts.append(f'{part}[{position}] has the {name} {_short(value)}')
                    entry[name] = number
    unsized: list[str] = []
    for position, entry in enumerate(content['images']):
        if entry_fault(entry, ('id', 'file_name')) is None:
            wrong = [f for f in ('width', 'height') if type(entry.get(f)) is not int or entry[f] < 1]
            if wrong:
                said = [f'the {f} {_short(entry[f])}' if f in entry else f'no {f}' for f in wrong]
                unsized.append(f'images[{position}] ({entry["file_name"]}) has {" and ".join(said)}')
            entry.update({field: max(0, _whole(entry.get(field)) or 0) for field in wrong})
    findings += found('id as text', split, texts) + found('image without size', split, unsized)
    return findings


def _whole(value: Any) -> int | None:
    """Return the whole number that a value is or stands for, if it does."""
    if type(value) is str and len(value) < 20 and value.removeprefix('-').isdecimal():
        return int(value) if str(int(value)) == value else None
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _sound(content: dict[str, Any], key: str, wrong: list[str]) -> tuple[list[Any], Ints]:
    """Return the entries that have all they must, and their positions; name the others in ``wrong``."""
    entries = content[key]
    kept = []
    for position, entry in enumerate(entries):
        fault = entry_fault(entry, FIELDS[key])
        if fault:
            wrong.append(f'{key}[{position}] {fault}')
        else:
            kept.append(position)
    return [entries[position] for position in kept], np.array(kept, np.int64)


def _all_sound(entries: list[Any], key: str) -> bool:
    """Tell whether all entries are sound, by columns: in a tenth of the time of `entry_fault`."""
    try:
        columns = {field: [entry[field] for entry in entries] for field in FIELDS[key]}
    except (TypeError, KeyError, IndexError):
        return False
    for field, column in columns.items():
        if field in ('file_name', 'name'):
            fits = set(map(type, column)) <= {str} and all(column)
            fits = fits and not any(mark in ''.join(column) for mark in '\0\\')
        elif field == 'bbox':
            fits = (
                set(map(type, column)) <= {list}
                and set(map(len, column)) <= {4}
                and set(map(type, chain.from_iterable(column))) <= {int, float}
            )
        else:
            fits = set(map(type, column)) <= {int} and all(-(2**62) < value < 2**62 for value in column)
            if field in ('width', 'height'):
                fits = fits and min(column, default=1) >= 1
        if not fits:
            return False
    try:
        flags = {entry.get(flag) for entry in entries for flag in FLAGS if key == 'annotations'}
    except TypeError:  # a list, or an object
        return False
    return None not in map(as_flag, flags)


def entry_fault(entry: Any, fields: Sequence[str]) -> str | None:
    """Say what is wrong with the form of one entry, if anything is."""
    for field in fields:
        if not isinstance(entry, dict) or field not in entry:
            return f"has no '{field}'"
        value = entry[field]
        if field in ('file_name', 'name'):
            if not isinstance(value, str) or not value or '\0' in value:
                return f'has the {field} {_short(value)}; a text is wanted'
        elif field == 'bbox':
            if (
                not isinstance(value, list)
                or len(value) != 4
                or not all(type(v) in (int, float) for v in value)
            ):
                return f'has the bbox {_short(value)}; [x, y, width, height] is wanted, in pixels'
        elif type(value) is not int or abs(value) >= 2**62:
            return f'has the {field} {_short(value)}; a whole number is wanted'
    for flag in FLAGS if 'bbox' in fields else ():
        if as_flag(entry.get(flag)) is None:
            return f'has {flag} {_short(entry[flag])}; 0 or 1 is expected'
    return None


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # of whole numbers with thousands of digits
        return 'of too many digits'
    return text if len(text) <= 60 else f'{text[:57]}...'


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


def _duplicates(
    table: Table, split: str, images: list[Any], categories: list[Any], box_ids: list[Any]
) -> list[Finding]:
    positions, classes = table.images_at, table.classes()
    names = [category['name'] for category in categories]
    twins = (f'categories[{n}]: {names[n]!r}' for n in table.twins())
    findings = found('empty duplicate category', split, twins)
    for kind, values, name in (
        ('duplicate image id', [image['id'] for image in images], lambda n: f'images[{positions[n]}]'),
        ('duplicate category id', [category['id'] for category in categories], lambda n: f'categories[{n}]'),
        (
            'duplicate category name',
            [names[n] for n in classes],
            lambda n: f'categories[{classes[n]}]',
        ),
        ('duplicate file name', table.files, lambda n: f'images[{positions[n]}]'),
        ('duplicate box id', box_ids, table.box_place),
    ):
        field = 'id' if kind.endswith('id') else 'name'
        of = {'image': 'images', 'category': 'categories', 'file': 'images', 'box': 'boxes'}[kind.split()[1]]
        findings += found(kind, split, _repeated(values, name, f'two {of} have the {field}'))
    return findings


def _repeated(values: Sequence[Any], name: Callable[[int], str], words: str) -> Iterator[str]:
    """Name the second and later holders of a value, but not of ``None``."""
    try:
        if len(set(values)) == len(values):
            return
    except TypeError:  # an id that is a list
        values = [value if type(value) in (int, str) else None for value in values]
    counts = Counter(values)
    seen: set[Any] = set()
    for index, value in enumerate(values):
        if value is not None and counts[value] > 1:
            if value in seen:
                yield f'{name(index)}: {words} {value!r}'
            seen.add(value)


def _unknown(table: Table, split: str, boxes: list[Any]) -> list[Finding]:
    findings = []
    for kind, index, field, of in (
        ('unknown image', table.image, 'image_id', 'images'),
        ('unknown category', table.category, 'category_id', 'categories'),
    ):
        lost = np.flatnonzero(index < 0)
        places = (
            f'{table.box_place(n)} has {field} {boxes[n][field]!r}, which none of the {of} has' for n in lost
        )
        findings += found(kind, split, places, len(lost))
    counts = table.counts()
    if (table.crowd | table.ignored)[table.category >= 0].all():
        there = 'all of its boxes are crowds or have ignore' if counts.sum() else 'it has images but no boxes'
        return findings + found('no boxes', split, [f'{there}; nothing to learn from'])
    learnt = {*table.category[~table.crowd & ~table.ignored].tolist()}
    empty = [
        repr(table.categories[index]['name']) + ': only crowds, or with ignore' * bool(counts[index])
        for index in table.classes()
        if index not in learnt
    ]
    findings += found('category without boxes', split, empty)
    bare = np.flatnonzero(np.bincount(table.image[table.image >= 0], minlength=len(table.files)) == 0)
    return findings + found('image without boxes', split, map(table.image_place, bare), len(bare))


def _limits(table: Table) -> Floats:
    """Return the width and height of each box's image, (n, 2), infinite where they are unknown."""
    sizes = np.vstack([table.sizes, [0, 0]])[table.image]  # -1 is the last
    return np.where(sizes == 0, np.inf, sizes)


def box_faults(table: Table) -> dict[str, Mask]:
    """Sort boxes by what is wrong with their numbers; each has one fault at most.

    Returns:
        a mask (n,) for each kind.
    """
    x, y, width, height = table.boxes.T
    with np.errstate(invalid='ignore', over='ignore'):
        finite = np.isfinite(table.boxes).all(1) & np.isfinite(x + width) & np.isfinite(y + height)
        negative = finite & ((width < 0) | (height < 0))
        fine = finite & ~negative
        faults = {'box not finite': ~finite, 'swapped corners': negative}
        known = table.image >= 0
        across, down = _limits(table).T
        beyond = np.maximum.reduce([-x, -y, x + width - across, y + height - down])
        far = (x + width - across > FAR * across) | (y + height - down > FAR * down)
        as_corners = (x >= 0) & (y >= 0) & (width > x) & (height > y) & (width <= across) & (height <= down)
        # Of an image whose boxes were written as corners, all are.
        others = np.bincount(table.image[known & ~as_corners], minlength=len(table.files)) > 0
        as_corners[known] &= ~others[table.image[known]]
        tests: Iterable[tuple[str, Mask]] = (
            ('corners for sizes', far & as_corners),
            ('empty box', (width < 1) | (height < 1)),
            ('box outside', (x >= across) | (y >= down) | (x + width <= 0) | (y + height <= 0)),
            ('box sticks out', beyond > 1),
            ('tiny box', (width < TINY) | (height < TINY)),
        )
        for kind, mask in tests:
            faults[kind] = fine & mask
            fine &= ~mask
    return faults


def check_boxes(table: Table, split: str) -> list[Finding]:
    """List what is wrong with the numbers of boxes, and the crowds."""
    findings = []
    for kind, mask in box_faults(table).items():
        at = np.flatnonzero(mask)
        places = [f'{table.box_place(n)}: bbox {_box_text(table, n)}' for n in at[:SHOWN]]
        # A box that sticks out by chance may fit as corners as well; most boxes do not.
        doubtful = kind == 'corners for sizes' and 2 * len(at) < len(table.boxes)
        findings += found(kind, split, places, len(at), 'warning' if doubtful else None)
    at = np.flatnonzero(unlike_polygons(table))
    places = [
        f'{table.box_place(n)}: bbox {_text(table.boxes[n])}, its polygon spans {_text(table.extents[n])}'
        for n in at[:SHOWN]
    ]
    findings += found('box unlike its polygon', split, places, len(at))
    at = np.flatnonzero(repeated(np.column_stack([table.image, table.category, table.boxes, table.crowd])))
    findings += found('same box twice', split, map(table.box_place, at), len(at))
    crowds = np.flatnonzero(table.crowd)
    return findings + found('crowd box', split, map(table.box_place, crowds), len(crowds))


def _box_text(table: Table, index: int) -> str:
    image = table.image[index]
    size = f' in {table.sizes[image][0]} x {table.sizes[image][1]}' if image >= 0 else ''
    return f'{_text(table.boxes[index])}{size}'


def _text(box: Floats) -> str:
    return f'[{", ".join(f"{value:.6g}" for value in box)}]'


def repeated(rows: Floats) -> Mask:
    """Return which rows, (n, k), equal an earlier one, (n,)."""
    mask = np.zeros(len(rows), bool)
    with np.errstate(invalid='ignore', over='ignore'):
        keys = (rows * np.random.default_rng(0).random(rows.shape[1])).sum(1)
    order = np.argsort(keys, kind='stable')
    near = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    mask[order[near + 1]] = (rows[order[near + 1]] == rows[order[near]]).all(1)
    return mask


def polygon_extents(boxes: Sequence[dict[str, Any]]) -> Floats:
    """Return x, y, width and height of what the polygons of each box span, (n, 4), NaN where it has none."""
    extents = np.full((len(boxes), 4), np.nan)
    at, points = [], []
    for index, box in enumerate(boxes):
        parts = box.get('segmentation')
        if type(parts) is list and parts and all(type(p) is list and len(p) in _LENGTHS for p in parts):
            at.append(index)
            points.append(parts[0] if len(parts) == 1 else list(chain.from_iterable(parts)))
    for first in range(0, len(at), CHUNK):
        extents[at[first : first + CHUNK]] = _spans(points[first : first + CHUNK])
    return extents


def outlines(boxes: Sequence[dict[str, Any]]) -> Floats:
    """Return what `polygon_extents` does, and of run-length codes what their masks span."""
    extents = polygon_extents(boxes)
    for index, box in enumerate(boxes):
        code = box.get('segmentation')
        size = code.get('size') if isinstance(code, dict) else None
        if type(size) is not list or [type(side) for side in size] != [int, int] or max(size) > 2**24:
            continue
        ends = np.cumsum(run_lengths(code, size) or [])
        first, last = ends[:-1:2], ends[1::2] - 1  # of the ones, down the columns
        (left, top), (right, low) = (np.divmod(each[last >= first], size[0]) for each in (first, last))
        if len(left):
            high, foot = (0, size[0] - 1) if (left != right).any() else (top.min(), low.max())
            extents[index] = left[0], high, right[-1] + 1 - left[0], foot + 1 - high
    return extents


def _rotated(box: dict[str, Any]) -> bool:
    """Tell whether CVAT has turned an object: its box is that of before."""
    attributes = box.get('attributes')
    angle = as_number(attributes.get('rotation')) if isinstance(attributes, dict) else None
    return angle is not None and math.isfinite(angle) and angle % 180 != 0


def run_lengths(value: Any, size: Sequence[int]) -> list[int] | None:
    """Return the counts of a run-length code, ``None`` of a broken one: of some, pycocotools dies.

    Counts are a list, or COCO's text: numbers of 5 bits a character, lowest first, each from the fourth on
    as its difference to the last but one.
    """
    if not isinstance(value, dict) or value.get('size') != list(size):
        return None
    code = value.get('counts')
    if isinstance(code, list):
        whole = all(type(count) is int and count >= 0 for count in code)
        return code if whole and sum(code) == size[0] * size[1] else None
    if not isinstance(code, str):
        return None
    counts: list[int] = []
    count = shift = 0
    for character in code:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        count |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        count -= (1 << shift) * (bits >> 4 & 1)
        count += counts[-2] if len(counts) > 2 else 0
        if count < 0:
            return None
        counts.append(count)
        count = shift = 0
    return None if shift or sum(counts) != size[0] * size[1] else counts


def _spans(points: list[list[float]]) -> Floats:
    starts = np.cumsum([0, *map(len, points[:-1])]) // 2
    try:
        pairs = np.fromiter(chain.from_iterable(points), np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):  # something that is no number
        return np.full((1, 4), np.nan) if len(points) == 1 else np.vstack([_spans([each]) for each in points])
    low, high = np.minimum.reduceat(pairs, starts), np.maximum.reduceat(pairs, starts)
    return np.hstack([low, high - low])


def unlike_polygons(table: Table) -> Mask:
    """Return which boxes are not around their polygons, as far as both are inside of the image, (n,)."""
    limits = _limits(table)
    with np.errstate(invalid='ignore', over='ignore'):
        (left, right), (low, high) = (
            (np.clip(each[:, :2], 0, limits), np.clip(each[:, :2] + each[:, 2:], 0, limits))
            for each in (table.boxes, table.extents)
        )
        common = np.clip(np.minimum(right, high) - np.maximum(left, low), 0, None).prod(1)
        union = (right - left).prod(1) + (high - low).prod(1) - common
        apart = np.maximum(np.abs(left - low), np.abs(right - high)).max(1) > SLACK
        drawn = (table.extents[:, 2:] > 0).all(1) & ~table.crowd
        return np.asarray(drawn & apart & (common < ALIKE * union), dtype=bool)


def is_there(folder: Path, file: str, listing: dict[Path, set[str]]) -> bool:
    """Tell whether a file is in a folder, from a listing that is read once."""
    parent, _, name = file.rpartition('/')
    where = folder / parent
    if where not in listing:
        try:
            listing[where] = set(os.listdir(where))
        except (OSError, ValueError):  # of names that no file system has, too
            listing[where] = set()
    # Asked for once more where it is not listed: the names of some file systems do not care for case.
    return name in listing[where] or os.path.isfile(folder / file)


def as_flag(value: Any) -> int | None:
    """Return ``iscrowd`` or ``ignore`` as 0 or 1, ``None`` where its meaning is not certain."""
    if value is None:  # as if it were left out
        return 0
    if isinstance(value, str):
        return _TEXTS.get(value.strip().lower())
    return int(value) if value in (0, 1) else None


def area_of(box: dict[str, Any]) -> float:
    """Return the ``area`` of an annotation, that of its box where it is missing or cannot be."""
    area = as_number(box.get('area'))
    _, _, width, height = box['bbox']
    return area if area is not None and 0 < area < 2**53 else width * height


def as_number(value: Any) -> float | None:
    """Return a number, also of a text that is one."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if type(value) in (int, float) else None


def is_complete(box: dict[str, Any]) -> bool:
    """Tell whether mmdet and COCO's evaluators can work with ``area``, ``iscrowd`` and ``ignore``."""
    return (
        type(box.get('area')) in (int, float)
        and box['area'] == area_of(box)
        and type(box.get('iscrowd')) is int
        and type(box.get('ignore', 0)) is int
    )


def complete_box(box: dict[str, Any]) -> None:
    """Give an annotation, in place, what `is_complete` asks for; flags of no certain meaning stay."""
    box['area'] = area_of(box)
    for flag in FLAGS:
        value = as_flag(box.get(flag))
        if value is not None and (flag in box or flag == 'iscrowd'):
            box[flag] = value


def _value_fault(box: dict[str, Any], key: str) -> str | None:
    """Name the kind of fault that ``area`` or a flag has, if any."""
    value = box.get(key)
    if value is None:
        return None if key == 'ignore' else 'no area or iscrowd'
    if key == 'area' and as_number(value) != area_of(box):
        return 'impossible area'
    return 'number as text' if isinstance(value, str) else None


def left_out(table: Table, classes: Iterable[str], min_size: int = 0) -> dict[str, int]:
    """Count the boxes that mmdet's ``CocoDataset`` does not train on, each for the first reason that holds.

    Args:
        table: of the file that it reads.
        classes: the names that it is given.
        min_size: the shorter side, in px, from which images are used.
    """
    names = set(classes)
    known = np.array([*(category['name'] in names for category in table.categories), False])
    sizes = np.vstack([table.sizes, [0, 0]])[table.image]  # -1 is the last
    with np.errstate(invalid='ignore', over='ignore'):
        low, size = table.boxes[:, :2], table.boxes[:, 2:]
        inside = np.minimum(low + size, sizes) - np.maximum(low, 0)
        reasons = {
            'of unknown images': table.image < 0,
            'in images without a size': (sizes < 1).any(1),
            'with ignore': table.ignored,
            'under 1 px': (size < 1).any(1),
            'outside the image': (inside <= 0).any(1),
            'with an area of 0 or below': table.area <= 0,
            'of other classes': ~known[table.category],
            'crowd': table.crowd,
            f'in images under {min_size} px': sizes.min(1) < min_size,
        }
    counts = {}
    left = np.ones(len(table.boxes), bool)
    for reason, mask in reasons.items():
        counts[reason] = int((left & mask).sum())
        left &= ~mask
    return {reason: count for reason, count in counts.items() if count}


def reasons(left: dict[str, int]) -> str:
    """Return the end of a sentence that says why boxes are not used."""
    listed = ', '.join(f'{count:,} {reason}' for reason, count in left.items())
    return f'; left out: {listed}' if listed else ''

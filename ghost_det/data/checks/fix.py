"""A fixed copy of a data set, in COCO's layout; the original is not changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ghost_det.data.annotations import CONVERTED, load
from ghost_det.data.entries import area_of, complete_box
from ghost_det.data.table import Mask, Table, box_faults, sound_boxes, unlike_polygons
from ghost_det.errors import UserError
from ghost_det.utils.files import atomic_folder
from ghost_det.utils.images import encode_image

from .check import Part, Report
from .images import Facts, common_images, image_kinds
from .pixels import REWRITTEN, correct_pixels

Entry = dict[str, Any]
Ids = list[int | None]
"""The new id of each old entry, ``None`` where it is dropped."""


def write_fixed(report: Report, out: Path) -> list[str]:
    """Write a copy of a data set without the problems that can be fixed; return a line for each split.

    The report must be of a check that opened the images.
    """
    out = out.expanduser().absolute()
    for part in report.parts:
        annotations, images = part.split.annotations, part.split.images
        root = {images.parent} if annotations.parent.parent == images.parent else set()
        require_outside(out, {annotations.parent, images} | root)
    require_empty(out)
    if not report.parts:
        raise UserError(f'--fix {out}: no annotations could be read, so there is nothing to write')
    train, val = report.parts[0], report.parts[-1]
    shared = common_images(train.facts, val.facts) if train.split != val.split else []
    lines: list[str] = []
    categories: list[Entry] | None = None
    try:
        with atomic_folder(out) as built:
            (built / 'annotations').mkdir()
            for part in report.parts:
                categories, line = _write_split(part, built, categories, shared if part is train else [])
                lines.append(line)
    except OSError as error:
        raise UserError(f'--fix {out}: cannot be written ({error.strerror or error})') from None
    return lines


def require_outside(out: Path, sources: Iterable[Path]) -> None:
    """Raise a `UserError` where the folder of a copy is inside of the data, or contains it."""
    for source in sources:
        inner, outer = out.expanduser().resolve(), source.expanduser().resolve()
        if inner.is_relative_to(outer) or outer.is_relative_to(inner):
            raise UserError(f'--fix {out}: lies in the data set, or contains it ({source}); choose another')


def require_empty(out: Path) -> None:
    """Raise a `UserError` where the folder of a copy exists and is not an empty folder."""
    out = out.expanduser()
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f'--fix {out}: exists and is not an empty folder; choose another')


def _write_split(
    part: Part, out: Path, categories: list[Entry] | None, unwanted: Collection[int]
) -> tuple[list[Entry], str]:
    """Write a split without unwanted images; return its categories, the given ones if any, and a summary."""
    content, table, _ = load(part.split.annotations, part.name)
    images, image_ids = _fix_images(part, content, table, unwanted)
    categories, category_ids = _fix_categories(table, categories)
    boxes, lost_boxes = _fix_boxes(content, table, image_ids, category_ids)
    for noun, lost, total in (
        ('images', len(content['images']) - len(table.files) + image_ids.count(None), len(content['images'])),
        ('boxes', lost_boxes, len(content['annotations'])),
    ):
        if 2 * lost > total:
            raise UserError(
                f'--fix: {lost} of {total} {noun} of {part.name} would be dropped, so nothing is written; '
                'correct the errors of the report first'
            )
    (out / part.name).mkdir()
    taken: set[str] = set()
    rewritten = 0
    for index, image in images.items():
        source = part.split.images / image['file_name']
        image['file_name'] = _name_inside(image['file_name'], taken)
        target = out / part.name / image['file_name']
        target.parent.mkdir(parents=True, exist_ok=True)
        if _rewrite_image(source, target, part.facts[index] or {}, (image['width'], image['height'])):
            rewritten += 1
        else:
            shutil.copy2(source, target)
    summary = (
        f'{part.name}: {len(images)} of {len(content["images"])} images, {rewritten} of them rewritten; '
        f'{len(boxes)} of {len(content["annotations"])} boxes; {len(categories)} categories'
    )
    info = content.get('info')
    content['info'] = {k: v for k, v in info.items() if k not in CONVERTED} if isinstance(info, dict) else {}
    content.update(images=[*images.values()], categories=categories)
    content['annotations'] = [{**box, 'id': number} for number, box in enumerate(boxes, start=1)]
    path = out / 'annotations' / f'instances_{part.name}.json'
    path.write_text(json.dumps(content), encoding='utf-8')
    return categories, summary


def _fix_images(
    part: Part, content: Any, table: Table, unwanted: Collection[int]
) -> tuple[dict[int, Entry], Ids]:
    """Return the images to keep, by index, and the new ids of all; sizes are also corrected in the table."""
    kept: dict[int, Entry] = {}
    new_ids: Ids = []
    ids: set[int] = set()
    by_file: dict[str, int] = {}
    for index, position in enumerate(table.images_at):
        entry, facts = dict(content['images'][position]), part.facts[index]
        if facts is None or 'error' in facts or index in unwanted or entry['id'] in ids:
            new_ids.append(None)
            continue
        ids.add(entry['id'])
        new_ids.append(by_file.setdefault(entry['file_name'], entry['id']))
        if new_ids[-1] == entry['id']:  # else it is merged with an earlier one of the same file
            kinds = dict(image_kinds(facts, (entry['width'], entry['height'])))
            if 'wrong size' in kinds or not table.sizes[index].all():
                entry['width'], entry['height'] = table.sizes[index] = facts['loaded']
            kept[index] = entry
    return kept, new_ids


def _fix_categories(table: Table, previous: list[Entry] | None) -> tuple[list[Entry], Ids]:
    """Return the categories, of the previous split if there is one, and the new ids of the old ones."""
    new: list[Entry] = previous or []
    for category in table.categories if previous is None else ():
        if all(category['id'] != c['id'] and category['name'] != c['name'] for c in new):
            new.append(category)
    ids = {category['name']: category['id'] for category in new}
    return new, [ids.get(category['name']) for category in table.categories]


def _fix_boxes(content: Any, table: Table, image_ids: Ids, category_ids: Ids) -> tuple[list[Entry], int]:
    """Return the boxes to keep, without repeated ones, and how many others were dropped."""
    moved = _fix_coordinates(table)
    good = sound_boxes(table) & (table.boxes[:, 2:] >= 1).all(1)
    kept = []
    seen = set()
    lost = len(content['annotations']) - len(table.boxes)
    for index, position in enumerate(table.boxes_at):
        image = image_ids[table.image[index]] if good[index] else None
        category = category_ids[table.category[index]] if good[index] else None
        if image is None or category is None:
            lost += 1
            continue
        bbox = table.boxes[index].tolist()
        key = (image, category, *bbox, bool(table.crowd[index]))
        if key in seen:
            continue
        seen.add(key)
        entry = {**content['annotations'][position], 'image_id': image, 'category_id': category}
        if moved[index]:
            entry['bbox'] = bbox
            entry['area'] = min(area_of(entry), bbox[2] * bbox[3])  # the area of a polygon may be smaller
        complete_box(entry)
        kept.append(entry)
    return kept, lost


def _fix_coordinates(table: Table) -> Mask:
    """Correct the table's boxes in place; return which were moved (n,)."""
    boxes = table.boxes
    redrawn = unlike_polygons(table)
    boxes[redrawn] = table.extents[redrawn]
    problems = box_faults(table)
    swapped, corners = problems['swapped corners'], problems['corners for sizes']
    x, y, right, down = boxes.T
    if 2 * corners.sum() >= len(boxes):  # then all of them are
        corners = corners | ((right > x) & (down > y) & np.isfinite(boxes).all(1))
    boxes[swapped, :2] += np.minimum(boxes[swapped, 2:], 0)
    boxes[swapped, 2:] = np.abs(boxes[swapped, 2:])
    boxes[corners, 2:] -= boxes[corners, :2]
    limits = table.box_sizes().astype(np.float64)
    low, high = np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, :2] + boxes[:, 2:], 0, limits)
    inside = np.hstack([low, high - low])
    clipped = (table.image >= 0) & (np.abs(inside - boxes) > 1e-6).any(1)
    boxes[clipped] = inside[clipped]
    return np.asarray(redrawn | swapped | corners | clipped, dtype=bool)


def _rewrite_image(source: Path, target: Path, facts: Facts, size: tuple[int, int]) -> bool:
    """Rewrite an image where mmcv would load it otherwise than its boxes mean; return whether it was."""
    kinds = {kind for kind, _ in image_kinds(facts, size)}
    if 'huge image' in kinds or not kinds & REWRITTEN:
        return False
    try:
        pixels = correct_pixels(source, kinds, facts)
        if pixels is not None:
            target.write_bytes(encode_image(pixels, target.suffix))
    except (UserError, cv2.error):  # a format that OpenCV only reads
        return False
    return pixels is not None


def _name_inside(file: str, taken: set[str]) -> str:
    """Return a file name that stays in its folder, and is not another's."""
    parts = [word for word in PurePosixPath(file).parts if word not in ('/', '..')]
    name = '/'.join(parts) or 'image'
    while name in taken:
        name = f'_{name}'
    taken.add(name)
    return name

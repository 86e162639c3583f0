"""A mended copy of a data set, in COCO's layout; the original stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ..annotations import CONVERTED, load
from ..errors import UserError
from .check import Part, Report
from .images import Facts, common_images, image_kind, loaded_size
from .table import Mask, Table, box_faults, complete_box, is_complete, sound_boxes

REWRITTEN = ('EXIF rotation', 'EXIF against boxes', '16-bit image', 'CMYK image')
QUALITY = 95  # of JPEG: the loss of a second encoding is not to be seen


def write_mended(report: Report, out: Path) -> list[str]:
    """Write a copy of a data set without the faults that can be mended.

    Annotations go to ``annotations/instances_SPLIT.json``, images to ``SPLIT/``. Images that need no change
    are hard links, or copies where the file system has none. The folder appears whole or not at all.

    Args:
        report: of a check that opened the images.
        out: a folder that does not exist, or is empty, outside of the data set.

    Returns:
        what was changed.

    Raises:
        UserError: ``out`` cannot be that folder, or cannot be written.
    """
    out = out.expanduser().absolute()
    for part in report.parts:
        sources = {part.split.annotations.parent, part.split.images}
        if part.split.annotations.parent.parent == part.split.images.parent:
            sources.add(part.split.images.parent)
        require_apart(out, sources)
    require_free(out)
    if not report.parts:
        raise UserError(f'--fix {out}: no annotations could be read, so there is nothing to write')
    lines: list[str] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as scratch:
            built = Path(scratch) / 'set'
            (built / 'annotations').mkdir(parents=True)
            leaked = set()
            if len(report.parts) == 2 and report.parts[0].split != report.parts[1].split:
                leaked = set(common_images([p.table for p in report.parts], [p.facts for p in report.parts]))
            names: list[dict[str, Any]] | None = None
            for part in report.parts:
                changed: Counter[str] = Counter()
                names = _write_split(part, built, names, leaked if part.name == 'train' else set(), changed)
                lines += [f'{part.name}: {count} {what}' for what, count in changed.items() if count]
            if out.exists():
                out.rmdir()
            built.rename(out)
    except OSError as error:
        raise UserError(f'--fix {out}: cannot be written ({error.strerror or error})') from None
    return lines or ['nothing was to be changed']


def require_apart(out: Path, sources: Iterable[Path]) -> None:
    """Refuse a place for a copy that lies in a folder of the data, or around it.

    Raises:
        UserError: it does.
    """
    for source in sources:
        inside, around = out.expanduser().resolve(), source.expanduser().resolve()
        if inside.is_relative_to(around) or around.is_relative_to(inside):
            raise UserError(f'--fix {out}: lies in the data set, or around it ({source}); choose another')


def require_free(out: Path) -> None:
    """Refuse a place for a copy where there is something already.

    Raises:
        UserError: there is, or it cannot be looked at.
    """
    out = out.expanduser()
    try:
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise UserError(f'--fix {out}: cannot be read ({error.strerror})') from None
    if taken:
        raise UserError(f'--fix {out}: exists and is not an empty folder; choose another')


def _write_split(
    part: Part, out: Path, categories: list[dict[str, Any]] | None, left_out: set[int], changed: Counter[str]
) -> list[dict[str, Any]]:
    """Write one split; return its categories, which the next one takes over."""
    content, table, _ = load(part.split.annotations, part.name)
    images, index_of = _images(part, content, table, left_out, changed)
    own, category_of = _categories(table, categories, changed)
    boxes = _boxes(content, table, [entry is not None for entry in index_of], category_of, changed)
    info = content.get('info') if isinstance(content.get('info'), dict) else {}
    mended = {
        **content,
        'info': {key: value for key, value in info.items() if key not in CONVERTED},
        'images': images,
        'categories': own,
        'annotations': [
            {**entry, 'image_id': index_of[image], 'id': number}
            for number, (entry, image) in enumerate(boxes, start=1)
        ],
    }
    if changed['boxes left out'] or not table.complete:
        changed['boxes numbered anew'] = len(boxes)
    taken: set[str] = set()
    folder = out / part.name
    folder.mkdir()
    for image in mended['images']:
        facts = part.facts[image.pop('_index')]
        name = _inside(image['file_name'], taken)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_image(part.split.images / image['file_name'], target, facts or {}, image, changed)
        image['file_name'] = name
    path = out / 'annotations' / f'instances_{part.name}.json'
    path.write_text(json.dumps(mended), encoding='utf-8')
    return own


def _inside(file: str, taken: set[str]) -> str:
    """Return a file name that stays in its folder, and is not another's."""
    parts = [word for word in PurePosixPath(file).parts if word not in ('/', '..')]
    name = '/'.join(parts) or 'image'
    while name in taken:
        name = f'_{name}'
    taken.add(name)
    return name


def _images(
    part: Part, content: Any, table: Table, left_out: set[int], changed: Counter[str]
) -> tuple[list[dict[str, Any]], list[int | None]]:
    """Return the images that stay, and the id that each old one has now, ``None`` where it goes."""
    kept: list[dict[str, Any]] = []
    index_of: list[int | None] = []
    ids: set[int] = set()
    by_file: dict[str, int] = {}
    for index, position in enumerate(table.images_at):
        entry = dict(content['images'][position])
        facts = part.facts[index]
        if facts is None or 'error' in facts or index in left_out or entry['id'] in ids:
            changed['images left out'] += 1
            index_of.append(None)
            continue
        ids.add(entry['id'])
        if entry['file_name'] in by_file:
            changed['images with the same file made one'] += 1
            index_of.append(by_file[entry['file_name']])
            continue
        by_file[entry['file_name']] = entry['id']
        index_of.append(entry['id'])
        kinds = dict(image_kind(facts, (entry['width'], entry['height'])))
        if 'wrong size' in kinds:
            entry['width'], entry['height'] = loaded_size(facts)
            table.sizes[index] = loaded_size(facts)
            changed['sizes of images corrected'] += 1
        kept.append({**entry, '_index': index})
    changed['entries of another form left out'] += (
        len(content['images'])
        - len(table.files)
        + len(content['annotations'])
        - len(table.boxes)
        + len(content['categories'])
        - len(table.categories)
    )
    return kept, index_of


def _categories(
    table: Table, before: list[dict[str, Any]] | None, changed: Counter[str]
) -> tuple[list[dict[str, Any]], list[int | None]]:
    """Return the categories, of the split before where there is one, and the new id of each old one."""
    own: list[dict[str, Any]] = []
    for category in table.categories:
        if category['id'] not in {c['id'] for c in own} and category['name'] not in {c['name'] for c in own}:
            own.append(category)
    new = own if before is None else before
    if len(own) < len(table.categories):
        changed['categories made one, or left out'] = len(table.categories) - len(own)
    if before is not None and [(c['id'], c['name']) for c in own] != [(c['id'], c['name']) for c in new]:
        changed['categories replaced by those of train'] = len(own)
    ids = {category['name']: category['id'] for category in new}
    return new, [ids.get(category['name']) for category in table.categories]


def _boxes(
    content: Any, table: Table, stays: list[bool], category_of: list[int | None], changed: Counter[str]
) -> list[tuple[dict[str, Any], int]]:
    """Return the boxes that stay, each with the index of its image."""
    boxes = table.boxes
    before = boxes.copy()
    faults = box_faults(table)
    turned, corners = faults['swapped corners'], corners_to_turn(table, faults)
    for axis in (0, 1):
        size = boxes[:, axis + 2]
        boxes[turned, axis] += np.minimum(size[turned], 0)
        size[turned] = np.abs(size[turned])
    boxes[corners, 2:] -= boxes[corners, :2]
    changed['boxes with swapped corners turned'] += int(turned.sum())
    changed['boxes read as corners'] += int(corners.sum())
    known = table.image >= 0
    limits = table.sizes[table.image[known]].astype(np.float64)
    low = np.clip(boxes[known, :2], 0, limits)
    high = np.clip(boxes[known, :2] + boxes[known, 2:], 0, limits)
    out = (np.abs(np.hstack([low, high - low]) - boxes[known]) > 1e-6).any(1)
    at = np.flatnonzero(known)[out]
    boxes[at] = np.hstack([low, high - low])[out]
    good = sound_boxes(table) & (boxes[:, 2:] >= 1).all(1)
    changed['boxes clipped'] += int(good[at].sum())
    moved = (boxes != before).any(1)
    kept = []
    for index, position in enumerate(table.boxes_at):
        category = category_of[table.category[index]] if good[index] else None
        if category is None or not stays[table.image[index]]:
            changed['boxes left out'] += 1
            continue
        entry = dict(content['annotations'][position])
        entry['category_id'] = category
        if moved[index]:
            entry.update(bbox=boxes[index].tolist(), area=float(boxes[index, 2] * boxes[index, 3]))
        changed['areas or flags put right'] += not is_complete(entry)
        complete_box(entry)
        kept.append((entry, int(table.image[index])))
    return kept


def corners_to_turn(table: Table, faults: dict[str, Mask]) -> Mask:
    """Return which boxes are read as x1, y1, x2, y2: those found to be so, or all where most are."""
    found = faults['corners for sizes']
    if found.sum() * 2 < len(table.boxes):
        return found
    x, y, right, down = table.boxes.T
    return np.asarray(found | ((right > x) & (down > y) & np.isfinite(table.boxes).all(1)), dtype=bool)


def _write_image(
    source: Path, target: Path, facts: Facts, entry: dict[str, Any], changed: Counter[str]
) -> None:
    kinds = [kind for kind, _ in image_kind(facts, (entry['width'], entry['height'])) if kind in REWRITTEN]
    if kinds and 'huge image' not in kinds and _rewrite(source, target, kinds):
        for kind in kinds:
            changed[f'images written anew ({kind})'] += 1
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _rewrite(source: Path, target: Path, kinds: list[str]) -> bool:
    """Write an image as mmcv is to see it: upright, 8 bits, RGB; tell whether that could be done."""
    from PIL import Image, ImageOps

    if '16-bit image' in kinds:
        upright = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR  # as the EXIF tag has it; the other leaves it
        flags = cv2.IMREAD_UNCHANGED if 'EXIF against boxes' in kinds else upright
        pixels: Any = cv2.imread(str(source), flags)
        if pixels is None or pixels.dtype != np.uint16:
            return False
        shift = max(0, int(pixels.max()).bit_length() - 8)
        done, content = cv2.imencode(source.suffix, (pixels >> shift).astype(np.uint8))
        if done:
            target.write_bytes(content.tobytes())
        return bool(done)
    with Image.open(source) as image:
        form = image.format if image.format in ('PNG', 'TIFF', 'BMP', 'WEBP') else 'JPEG'
        result = ImageOps.exif_transpose(image) if 'EXIF rotation' in kinds else image
        if 'CMYK image' in kinds:
            result = result.convert('RGB')
        # The same tables of quantisation lose the least, but Pillow has them of an unchanged JPEG alone.
        keep = result is image and image.format == 'JPEG'
        exif = result.getexif()
        exif.pop(0x0112, None)
        profile = None if 'CMYK image' in kinds else image.info.get('icc_profile')
        quality = 'keep' if keep else QUALITY
        result.save(target, form, quality=quality, exif=exif.tobytes(), icc_profile=profile)
    return True

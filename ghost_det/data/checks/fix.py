"""A fixed copy of a data set, in COCO's layout; the original stays as it is."""

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

from ghost_det.data.annotations import CONVERTED, load
from ghost_det.data.entries import area_of, complete_box, corrections
from ghost_det.data.table import Mask, Table, box_faults, repeated, sound_boxes, unlike_polygons
from ghost_det.errors import UserError

from .check import Part, Report
from .images import Facts, common_images, image_kind

REWRITTEN = ('EXIF rotation', 'EXIF against boxes', '16-bit image', '32-bit image', 'CMYK image')
QUALITY = 95  # of JPEG: the loss of a second encoding is not to be seen


def write_mended(report: Report, out: Path) -> list[str]:
    """Write a copy of a data set without the faults that can be fixed; return what was changed.

    Annotations go to ``annotations/instances_SPLIT.json``, images to ``SPLIT/``. Images that need no change
    are hard links, or copies where the file system has none. The folder appears complete or not at all.

    Args:
        report: of a check that opened the images.
        out: a folder that does not exist, or is empty, outside of the data set.

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
                left_out = leaked if part.name == 'train' else set()
                names = _write_split(report, part, built, names, left_out, changed)
                lines += [f'{part.name}: {count} {what}' for what, count in changed.items() if count]
            if out.exists():
                out.rmdir()
            built.rename(out)
    except OSError as error:
        raise UserError(f'--fix {out}: cannot be written ({error.strerror or error})') from None
    return lines or ['nothing had to be changed']


def require_apart(out: Path, sources: Iterable[Path]) -> None:
    """Raise a `UserError` where a place for a copy lies in a folder of the data, or around it."""
    for source in sources:
        inside, around = out.expanduser().resolve(), source.expanduser().resolve()
        if inside.is_relative_to(around) or around.is_relative_to(inside):
            raise UserError(f'--fix {out}: lies in the data set, or around it ({source}); choose another')


def require_free(out: Path) -> None:
    """Raise a `UserError` where there is something in the place for a copy, or it cannot be looked at."""
    out = out.expanduser()
    try:
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise UserError(f'--fix {out}: cannot be read ({error.strerror})') from None
    if taken:
        raise UserError(f'--fix {out}: exists and is not an empty folder; choose another')


def _write_split(
    report: Report,
    part: Part,
    out: Path,
    categories: list[dict[str, Any]] | None,
    left_out: set[int],
    changed: Counter[str],
) -> list[dict[str, Any]]:
    """Write one split; return its categories, which the next one takes over."""
    content, table, findings = load(part.split.annotations, part.name)
    counts = {finding.kind: finding.count for finding in findings}
    changed['ids as text numbered'] += counts.get('id as text', 0)
    changed['sizes of images corrected'] += counts.get('image without size', 0)
    images, index_of = _images(part, content, table, left_out, changed)
    own, category_of = _categories(table, categories, changed)
    boxes = _boxes(content, table, index_of, category_of, changed)
    _refuse_loss(report, part, content, changed)
    info = content.get('info') if isinstance(content.get('info'), dict) else {}
    fixed = {
        **content,
        'info': {key: value for key, value in info.items() if key not in CONVERTED},
        'images': images,
        'categories': own,
        'annotations': [{**entry, 'id': number} for number, entry in enumerate(boxes, start=1)],
    }
    if len(boxes) < len(table.boxes) or not table.complete:
        changed['boxes renumbered'] = len(boxes)
    taken: set[str] = set()
    folder = out / part.name
    folder.mkdir()
    for image in fixed['images']:
        facts = part.facts[image.pop('_index')]
        name = _inside(image['file_name'], taken)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_image(part.split.images / image['file_name'], target, facts or {}, image, changed)
        image['file_name'] = name
    path = out / 'annotations' / f'instances_{part.name}.json'
    path.write_text(json.dumps(fixed), encoding='utf-8')
    return own


def _refuse_loss(report: Report, part: Part, content: Any, changed: Counter[str]) -> None:
    """Raise a `UserError` where over half of a split's images or boxes would be left out."""
    for key, noun, sound in (
        ('images', 'images', len(part.table.files)),
        ('annotations', 'boxes', len(part.table.boxes)),
    ):
        total = len(content[key])
        lost = changed[f'{noun} left out'] + total - sound
        if 2 * lost > total:
            reasons = [error.line(3) for error in report.errors if error.split in ('', part.name)]
            raise UserError(
                f'--fix: {lost} of {total} {noun} of {part.name} would be left out, so nothing is written; '
                'correct these first:\n  ' + '\n  '.join(reasons)
            )


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
        if 'wrong size' in kinds or not table.sizes[index].all():
            entry['width'], entry['height'] = table.sizes[index] = facts['loaded']
            changed['sizes of images corrected'] += bool(kinds.get('wrong size'))
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
    content: Any,
    table: Table,
    index_of: list[int | None],
    category_of: list[int | None],
    changed: Counter[str],
) -> list[dict[str, Any]]:
    """Return the boxes that stay, with the ids of their images and categories."""
    boxes = table.boxes
    drawn = unlike_polygons(table)
    boxes[drawn] = table.extents[drawn]
    changed['boxes made to fit their polygons'] += int(drawn.sum())
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
    # Two images, or two categories, may have become one.
    owners = [index_of[index] if index >= 0 else None for index in table.image]
    kinds = [category_of[index] if index >= 0 else None for index in table.category]
    again = repeated(np.column_stack([_ranks(owners), _ranks(kinds), boxes, table.crowd]))
    kept = []
    for index, position in enumerate(table.boxes_at):
        if not good[index] or owners[index] is None or kinds[index] is None:
            changed['boxes left out'] += 1
            continue
        if again[index]:
            changed['boxes that were there twice removed'] += 1
            continue
        entry = dict(content['annotations'][position])
        entry.update(image_id=owners[index], category_id=kinds[index])
        if moved[index] or drawn[index]:
            entry['bbox'] = boxes[index].tolist()
        if moved[index]:  # a polygon's own area stays
            entry['area'] = min(area_of(entry), float(boxes[index, 2] * boxes[index, 3]))
        changed['areas or flags corrected'] += bool(corrections(entry))
        complete_box(entry)
        kept.append(entry)
    return kept


def _ranks(values: list[int | None]) -> list[int]:
    """Return small numbers for values, as no float holds an id over 2 ** 53."""
    rank = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [rank[value] for value in values]


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
    if kinds and 'huge image' not in kinds and _rewrite(source, target, kinds, facts):
        for kind in kinds:
            changed[f'images rewritten ({kind})'] += 1
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _rewrite(source: Path, target: Path, kinds: list[str], facts: Facts) -> bool:
    """Write an image as mmcv is to see it: upright, 8 bits, RGB; tell whether that could be done."""
    from PIL import Image, ImageOps

    if facts['bits'] > 8:
        # Turned as mmcv turns it: OpenCV cannot leave a TIFF unturned.
        flags = cv2.IMREAD_UNCHANGED if facts['bits'] > 16 else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
        try:
            pixels: Any = cv2.imdecode(np.fromfile(source, np.uint8), flags)
            if pixels is None or 'EXIF against boxes' in kinds:
                return False
            if pixels.ndim == 3:
                pixels = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0]
            done, content = cv2.imencode(source.suffix, eight_bits(pixels))
        except cv2.error:  # no 8-bit form of this format
            return False
        if done:
            target.write_bytes(content.tobytes())
        return bool(done)
    with Image.open(source) as image:
        form = image.format if image.format in ('PNG', 'TIFF', 'BMP', 'WEBP', 'AVIF') else 'JPEG'
        # Where the boxes do not fit what mmcv loads, they fit the other.
        upright = facts['turned'] if 'EXIF rotation' in kinds else facts['loaded'] == facts['size']
        profile = None if 'CMYK image' in kinds else image.info.get('icc_profile')
        exif = image.getexif()
        result = ImageOps.exif_transpose(image) if upright else image
        exif.pop(0x0112, None)  # before Pillow turns a TIFF by it
        result.load()
        if 'CMYK image' in kinds:
            result = result.convert('RGB')
        elif form == 'TIFF':
            result = result.copy()  # whose size is that of its pixels
        # The same tables of quantisation lose the least, but Pillow has them only of an unchanged JPEG.
        quality = 'keep' if result is image and image.format == 'JPEG' else QUALITY
        result.info.pop('xmp', None)  # which has the orientation as well
        kept = b'' if form == 'TIFF' else exif.tobytes()  # of a TIFF, the old size would be among it
        result.save(target, form, quality=quality, exif=kept, icc_profile=profile)
    return True


def eight_bits(pixels: Any) -> Any:
    """Return pixels of another type in 8 bits.

    Floats from 0 to 1 are multiplied by 255; of other values, the 8 bits from the highest that the image uses
    are kept. Where some are negative, the lowest becomes 0 and the highest 255. NaN and infinity become 0.
    """
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0:
        values = (values - low) * (255 / (high - low or 1))
    elif pixels.dtype.kind == 'f' and high <= 1:
        values *= 255
    else:
        values = np.floor(values / 2.0 ** max(0, int(high).bit_length() - 8))
    return values.round().astype(np.uint8)

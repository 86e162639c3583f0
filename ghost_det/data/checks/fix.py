"""A fixed copy of a data set, in COCO's layout; the original is not changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ghost_det.data.annotations import CONVERTED, load
from ghost_det.data.entries import area_of, complete_box
from ghost_det.data.image_facts import ORIENTATION
from ghost_det.data.table import Mask, Table, box_faults, sound_boxes, unlike_polygons
from ghost_det.errors import UserError
from ghost_det.utils.files import atomic_folder, explain_os_error
from ghost_det.utils.images import encode_image

from .check import Part, Report
from .images import Facts, common_images, image_kinds

Entry = dict[str, Any]
Ids = list[int | None]
"""The new id of each old entry, ``None`` if it is dropped."""
REWRITTEN = {'EXIF rotation', 'EXIF against boxes', '16-bit image', '32-bit image', 'CMYK image'}
"""Problems of images that mmcv does not load in the orientation of their boxes, in 8 bits."""


def write_fixed(report: Report, out: Path) -> list[str]:
    """Write a copy of a data set without the problems that can be fixed; return a line for each split.

    The report must be of a check that opened the images.
    """
    out = out.expanduser().resolve()
    places = [part.split for part in report.parts]
    require_separate(out, [folder for place in places for folder in (place.annotations.parent, place.images)])
    if not report.parts:
        raise UserError(f'--fix {out}: no annotations could be read, so there is nothing to write')
    train, val = report.parts[0], report.parts[-1]
    shared = common_images(train.facts, val.facts) if train.split != val.split else []
    lines: list[str] = []
    categories: list[Entry] = []
    with explain_os_error(f'--fix {out}', 'written'), atomic_folder(out) as built:
        for part in report.parts:
            lines.append(_write_split(part, built, categories, shared if part is train else []))
    return lines


def require_separate(out: Path, sources: Iterable[Path]) -> None:
    """Raise a `UserError` if a copy's folder is neither new nor empty, or is inside the data."""
    out = out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'--fix {out}: exists and is not an empty folder; choose another')
    for source in sources:
        if out.is_relative_to(source.expanduser().resolve()):
            raise UserError(f'--fix {out}: is inside the data set ({source}); choose another')


def _write_split(part: Part, out: Path, categories: list[Entry], unwanted: Collection[int]) -> str:
    """Write a split without unwanted images, and return a summary; the first split fills ``categories``."""
    content, table, _ = load(part.split.annotations, part.name)
    images, image_ids = _fix_images(part, content, table, unwanted)
    boxes = _fix_boxes(content, table, image_ids, _fix_categories(table, categories))
    all_images, all_boxes = (len(content[key]) for key in ('images', 'annotations'))
    lost_images = all_images - len(table.files) + image_ids.count(None)  # those that were merged are not lost
    for noun, lost, total in (
        ('images', lost_images, all_images),
        ('boxes', all_boxes - len(boxes), all_boxes),
    ):
        if 2 * lost > total:
            raise UserError(
                f'--fix: {lost} of {total} {noun} of {part.name} would be dropped, so nothing is written; '
                'correct the errors of the report first'
            )
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
    info = content.get('info')
    content['info'] = {k: v for k, v in info.items() if k not in CONVERTED} if isinstance(info, dict) else {}
    content.update(images=[*images.values()], categories=categories)
    content['annotations'] = [{**box, 'id': number} for number, box in enumerate(boxes, start=1)]
    path = out / 'annotations' / f'instances_{part.name}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding='utf-8')
    return (
        f'{part.name}: {len(images)} of {all_images} images, {rewritten} of them rewritten; '
        f'{len(boxes)} of {all_boxes} boxes; {len(categories)} categories'
    )


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


def _fix_categories(table: Table, new: list[Entry]) -> Ids:
    """Fill ``new``, the categories, unless an earlier split has; return the new ids of the old ones."""
    for category in () if new else table.categories:
        if all(category['id'] != c['id'] and category['name'] != c['name'] for c in new):
            new.append(category)
    ids = {category['name']: category['id'] for category in new}
    return [ids.get(category['name']) for category in table.categories]


def _fix_boxes(content: Any, table: Table, image_ids: Ids, category_ids: Ids) -> list[Entry]:
    """Return the boxes to keep, without repeated ones."""
    moved = _fix_coordinates(table)
    kept: dict[tuple[Any, ...], Entry] = {}
    for index in np.flatnonzero(sound_boxes(table) & (table.boxes[:, 2:] >= 1).all(1)):
        image, category = image_ids[table.image[index]], category_ids[table.category[index]]
        bbox = table.boxes[index].tolist()
        key = (image, category, *bbox, table.crowd[index])
        if image is None or category is None or key in kept:
            continue
        entry = {**content['annotations'][table.boxes_at[index]], 'image_id': image, 'category_id': category}
        if moved[index]:
            entry['bbox'] = bbox
            entry['area'] = min(area_of(entry), bbox[2] * bbox[3])  # the area of a polygon may be smaller
        complete_box(entry)
        kept[key] = entry
    return [*kept.values()]


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
        target.write_bytes(encode_image(correct_pixels(source, kinds, facts), target.suffix))
    except (UserError, cv2.error):  # a format that OpenCV only reads
        return False
    return True


def correct_pixels(path: Path, kinds: Collection[str], facts: Facts) -> NDArray[np.uint8]:
    """Return an image without these kinds of problems, as 8-bit BGR; raises if that is impossible."""
    if 'EXIF against boxes' in kinds:
        if facts['bits'] > 8:
            raise UserError(f'{path}: Pillow does not read its {facts["bits"]} bits')
        with Image.open(path) as image:  # OpenCV cannot leave a TIFF unturned
            if facts['turned']:
                image.getexif().pop(ORIENTATION, None)  # before Pillow turns a TIFF by it
                return np.asarray(image.convert('RGB'))[..., ::-1]
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))[..., ::-1]
    flags = cv2.IMREAD_COLOR
    if facts['bits'] > 8:
        flags = cv2.IMREAD_UNCHANGED if facts['bits'] > 16 else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if pixels is None:
        raise UserError(f'{path}: cannot be decoded')
    return to_eight_bits(pixels if pixels.ndim == 2 else pixels[..., :3])


def to_eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert pixels to 8 bits: floats up to 1 are scaled, of larger values the 8 highest used bits are kept.

    Negative values, NaN and infinity become 0.
    """
    if pixels.dtype == np.uint8:
        return pixels
    values = np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0).clip(0)
    if pixels.dtype.kind == 'f' and values.max() <= 1:
        values = (values * 255).round()
    return np.asarray(values / 2.0 ** max(0, int(values.max()).bit_length() - 8)).astype(np.uint8)


def _name_inside(file: str, taken: set[str]) -> str:
    """Return a file name that stays in its folder, and is not another's."""
    name = '/'.join(word for word in PurePosixPath(file).parts if word not in ('/', '..'))
    while name in taken:
        name = f'_{name}'
    taken.add(name)
    return name

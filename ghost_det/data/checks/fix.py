"""A fixed copy of a data set, in COCO's layout; the original stays as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ghost_det.data.annotations import CONVERTED, load
from ghost_det.data.entries import area_of, complete_box
from ghost_det.data.table import Mask, Table, box_faults, sound_boxes, unlike_polygons
from ghost_det.errors import UserError
from ghost_det.utils.files import atomic_folder

from .check import Part, Report
from .images import common_images, image_kinds
from .pixels import REWRITTEN, rewrite_image

Entry = dict[str, Any]


def write_fixed(report: Report, out: Path) -> list[str]:
    """Write a copy of a data set without the problems that can be fixed; return what was changed.

    The report must be of a check that opened the images. Those that need no change are hard links or copies.
    """
    out = out.expanduser().absolute()
    for part in report.parts:
        sources = {part.split.annotations.parent, part.split.images}
        if part.split.annotations.parent.parent == part.split.images.parent:
            sources.add(part.split.images.parent)
        require_outside(out, sources)
    require_empty(out)
    if not report.parts:
        raise UserError(f'--fix {out}: no annotations could be read, so there is nothing to write')
    shared: set[int] = set()
    if len(report.parts) == 2 and report.parts[0].split != report.parts[1].split:
        shared = set(common_images(report.parts[0].facts, report.parts[1].facts))
    lines: list[str] = []
    try:
        if out.exists():
            out.rmdir()
        with atomic_folder(out) as built:
            (built / 'annotations').mkdir()
            categories: list[Entry] | None = None
            for part in report.parts:
                writer = _SplitWriter(report, part, shared if part.name == 'train' else set())
                categories = writer.write(built, categories)
                lines += [f'{part.name}: {count} {what}' for what, count in writer.changed.items() if count]
    except OSError as error:
        raise UserError(f'--fix {out}: cannot be written ({error.strerror or error})') from None
    return lines or ['nothing had to be changed']


def require_outside(out: Path, sources: Iterable[Path]) -> None:
    """Raise a `UserError` where the folder of a copy lies in a folder of the data, or contains it."""
    for source in sources:
        inner, outer = out.expanduser().resolve(), source.expanduser().resolve()
        if inner.is_relative_to(outer) or outer.is_relative_to(inner):
            raise UserError(f'--fix {out}: lies in the data set, or contains it ({source}); choose another')


def require_empty(out: Path) -> None:
    """Raise a `UserError` where there is something in the place of a copy, or it cannot be read."""
    out = out.expanduser()
    try:
        taken = out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))
    except OSError as error:
        raise UserError(f'--fix {out}: cannot be read ({error.strerror})') from None
    if taken:
        raise UserError(f'--fix {out}: exists and is not an empty folder; choose another')


class _SplitWriter:
    """Writes the fixed copy of one split, and counts what it ``changed``."""

    def __init__(self, report: Report, part: Part, dropped: set[int]) -> None:
        self.report, self.part, self.dropped = report, part, dropped
        self.content, self.table, findings = load(part.split.annotations, part.name)
        counts = {finding.kind: finding.count for finding in findings}
        self.changed: Counter[str] = Counter()
        self.changed['ids as text numbered'] += counts.get('id as text', 0)
        self.changed['sizes of images corrected'] += counts.get('image without size', 0)

    def write(self, out: Path, categories: list[Entry] | None) -> list[Entry]:
        """Write it with the categories of the split before, if there is one; return its categories."""
        content, table = self.content, self.table
        images, image_ids = self._fix_images()
        own, category_ids = self._fix_categories(categories)
        boxes = self._fix_boxes(image_ids, category_ids)
        self._refuse_loss()
        if len(boxes) < len(table.boxes) or not table.complete:
            self.changed['boxes renumbered'] = len(boxes)
        (out / self.part.name).mkdir()
        taken: set[str] = set()
        for index, image in images.items():
            source = self.part.split.images / image['file_name']
            image['file_name'] = _name_inside(image['file_name'], taken)
            self._write_image(source, out / self.part.name / image['file_name'], index, image)
        info = content.get('info') if isinstance(content.get('info'), dict) else {}
        fixed = {
            **content,
            'info': {key: value for key, value in info.items() if key not in CONVERTED},
            'images': [*images.values()],
            'categories': own,
            'annotations': [{**entry, 'id': number} for number, entry in enumerate(boxes, start=1)],
        }
        path = out / 'annotations' / f'instances_{self.part.name}.json'
        path.write_text(json.dumps(fixed), encoding='utf-8')
        return own

    def _fix_images(self) -> tuple[dict[int, Entry], list[int | None]]:
        """Return the images that stay, by index, and the new id of each, ``None`` where it is dropped."""
        kept: dict[int, Entry] = {}
        new_ids: list[int | None] = []
        ids: set[int] = set()
        by_file: dict[str, int] = {}
        for index, position in enumerate(self.table.images_at):
            entry = dict(self.content['images'][position])
            facts = self.part.facts[index]
            if facts is None or 'error' in facts or index in self.dropped or entry['id'] in ids:
                self.changed['images dropped'] += 1
                new_ids.append(None)
                continue
            ids.add(entry['id'])
            if entry['file_name'] in by_file:
                self.changed['images with the same file merged'] += 1
                new_ids.append(by_file[entry['file_name']])
                continue
            by_file[entry['file_name']] = entry['id']
            new_ids.append(entry['id'])
            kinds = dict(image_kinds(facts, (entry['width'], entry['height'])))
            if 'wrong size' in kinds or not self.table.sizes[index].all():
                entry['width'], entry['height'] = self.table.sizes[index] = facts['loaded']
                self.changed['sizes of images corrected'] += 'wrong size' in kinds
            kept[index] = entry
        entries = sum(len(self.content[key]) for key in ('images', 'annotations', 'categories'))
        valid = len(self.table.files) + len(self.table.boxes) + len(self.table.categories)
        self.changed['invalid entries dropped'] += entries - valid
        return kept, new_ids

    def _fix_categories(self, before: list[Entry] | None) -> tuple[list[Entry], list[int | None]]:
        """Return the categories, of the split before if there is one, and the new id of each old one."""
        own: list[Entry] = []
        for category in self.table.categories:
            if all(category['id'] != c['id'] and category['name'] != c['name'] for c in own):
                own.append(category)
        new = own if before is None else before
        self.changed['categories merged or dropped'] += len(self.table.categories) - len(own)
        if [(c['id'], c['name']) for c in own] != [(c['id'], c['name']) for c in new]:
            self.changed['categories replaced by those of train'] = len(own)
        ids = {category['name']: category['id'] for category in new}
        return new, [ids.get(category['name']) for category in self.table.categories]

    def _fix_boxes(self, image_ids: list[int | None], category_ids: list[int | None]) -> list[Entry]:
        """Return the boxes that stay, with the new ids of their images and categories."""
        table = self.table
        redrawn, moved, clipped = self._fix_coordinates()
        good = sound_boxes(table) & (table.boxes[:, 2:] >= 1).all(1)
        self.changed['boxes clipped'] += int((good & clipped).sum())
        kept = []
        seen = set()
        for index, position in enumerate(table.boxes_at):
            owner, category = (
                ids[at] if at >= 0 else None
                for ids, at in ((image_ids, table.image[index]), (category_ids, table.category[index]))
            )
            if not good[index] or owner is None or category is None:
                self.changed['boxes dropped'] += 1
                continue
            bbox = table.boxes[index].tolist()
            # Two images, or two categories, may have become one.
            key = (owner, category, *bbox, bool(table.crowd[index]))
            if key in seen:
                self.changed['repeated boxes dropped'] += 1
                continue
            seen.add(key)
            entry = {**self.content['annotations'][position], 'image_id': owner, 'category_id': category}
            if redrawn[index] or moved[index]:
                entry['bbox'] = bbox
            if moved[index]:  # a polygon's own area stays
                entry['area'] = min(area_of(entry), bbox[2] * bbox[3])
            self.changed['areas or flags corrected'] += bool(complete_box(entry))
            kept.append(entry)
        return kept

    def _fix_coordinates(self) -> tuple[Mask, Mask, Mask]:
        """Correct the table's boxes in place; return which were redrawn, moved, and clipped, each (n,)."""
        table, boxes = self.table, self.table.boxes
        redrawn = unlike_polygons(table)
        boxes[redrawn] = table.extents[redrawn]
        self.changed['boxes redrawn around their polygons'] += int(redrawn.sum())
        before = boxes.copy()
        faults = box_faults(table)
        swapped, corners = faults['swapped corners'], _written_as_corners(table, faults['corners for sizes'])
        boxes[swapped, :2] += np.minimum(boxes[swapped, 2:], 0)
        boxes[swapped, 2:] = np.abs(boxes[swapped, 2:])
        boxes[corners, 2:] -= boxes[corners, :2]
        self.changed['boxes with swapped corners corrected'] += int(swapped.sum())
        self.changed['boxes read as corners'] += int(corners.sum())
        known = table.image >= 0
        limits = table.box_sizes().astype(np.float64)
        low, high = np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, :2] + boxes[:, 2:], 0, limits)
        inside = np.hstack([low, high - low])
        clipped = known & (np.abs(inside - boxes) > 1e-6).any(1)
        boxes[clipped] = inside[clipped]
        return redrawn, (boxes != before).any(1), clipped

    def _refuse_loss(self) -> None:
        """Raise a `UserError` where over half of the images or boxes would be dropped."""
        for key, noun, valid in (
            ('images', 'images', len(self.table.files)),
            ('annotations', 'boxes', len(self.table.boxes)),
        ):
            total = len(self.content[key])
            lost = self.changed[f'{noun} dropped'] + total - valid
            if 2 * lost > total:
                errors = [e.line(3) for e in self.report.errors if e.split in ('', self.part.name)]
                raise UserError(
                    f'--fix: {lost} of {total} {noun} of {self.part.name} would be dropped, so nothing is '
                    'written; correct these first:\n  ' + '\n  '.join(errors)
                )

    def _write_image(self, source: Path, target: Path, index: int, entry: Entry) -> None:
        """Rewrite an image where mmcv would not see it as its boxes mean it; else link or copy the file."""
        target.parent.mkdir(parents=True, exist_ok=True)
        facts = self.part.facts[index] or {}
        kinds = [kind for kind, _ in image_kinds(facts, (entry['width'], entry['height']))]
        changes = [kind for kind in REWRITTEN if kind in kinds and 'huge image' not in kinds]
        if changes and rewrite_image(source, target, changes, facts):
            self.changed.update(f'images rewritten ({kind})' for kind in changes)
            return
        try:
            os.link(source.resolve(), target)
        except OSError:
            shutil.copy2(source, target)


def _name_inside(file: str, taken: set[str]) -> str:
    """Return a file name that stays in its folder, and is not another's."""
    parts = [word for word in PurePosixPath(file).parts if word not in ('/', '..')]
    name = '/'.join(parts) or 'image'
    while name in taken:
        name = f'_{name}'
    taken.add(name)
    return name


def _written_as_corners(table: Table, found: Mask) -> Mask:
    """Return which boxes are read as x1, y1, x2, y2: those found to be so, or all where most are."""
    if found.sum() * 2 < len(table.boxes):
        return found
    x, y, right, down = table.boxes.T
    return np.asarray(found | ((right > x) & (down > y) & np.isfinite(table.boxes).all(1)), dtype=bool)

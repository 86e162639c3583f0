"""An annotation file as arrays, and tests of its boxes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
IOU = 0.5  # an anchor with this IoU or more fits a box
SIZES = ('small', 'medium', 'large')  # of COCO, by the area in the original image
LIMITS = (32.0**2, 96.0**2)  # px, between the `SIZES`
ALIKE = 0.9  # IoU from which a box and the extent of its polygons agree
SLACK = 2.0  # px that an edge may move by rounding, and by conventions of where a pixel ends
TINY = 3  # px
FAR = 0.1  # of the image's side: what sticks out further and fits as corners was written as corners


@dataclass(frozen=True)
class Table:
    """The valid entries of an annotation file, n boxes on m images, as arrays."""

    files: list[str]  # m file names
    sizes: Ints  # (m, 2) widths and heights in pixels, 0 where unknown
    images_at: Ints  # (m,) positions in the json
    categories: list[dict[str, Any]]  # as in the file
    boxes: Floats  # (n, 4) x, y, width, height in pixels
    image: Ints  # (n,) index of a box's image in `files`, -1 if there is none
    category: Ints  # (n,) index of its category, -1 if there is none
    boxes_at: Ints  # (n,) positions in the json
    no_area: Mask  # (n,) whether its `area` is a number, but not above 0
    crowd: Mask  # (n,)
    ignored: Mask  # (n,) whether it has `ignore`
    complete: bool  # nothing has to be corrected in a copy, see `entries`
    extents: Floats  # (n, 4) the boxes around the polygons, NaN without polygons

    def used(self) -> list[Any]:
        """Return the ids of the categories that have boxes."""
        return [category['id'] for category, count in zip(self.categories, self.counts()) if count]

    def by_size(self) -> Ints:
        """Return how many sound boxes of each of the `SIZES` each category has."""
        counts = np.zeros((len(self.categories), len(SIZES)), np.int64)
        sound = sound_boxes(self)
        size = np.digitize(self.boxes[sound, 2:].prod(1), LIMITS)
        np.add.at(counts, (self.category[sound], size), 1)
        return counts

    def counts(self) -> Ints:
        """Return how many boxes each category has."""
        return np.bincount(self.category[self.category >= 0], minlength=len(self.categories))

    def classes(self) -> list[int]:
        """Return the indices of the categories that are classes.

        A category without boxes is not a class if it only names the group of others (as Roboflow writes), or
        has the name of another.
        """
        counts = self.counts()
        groups = [c.get('supercategory') for c in self.categories if c.get('supercategory') != c['name']]
        taken = {category['name'] for category, count in zip(self.categories, counts) if count}
        found = []
        for index, name in enumerate(category['name'] for category in self.categories):
            if counts[index] or (name not in groups and name not in taken):
                found.append(index)
                taken.add(name)
        return found

    def empty_duplicates(self) -> list[int]:
        """Return the indices of the categories without boxes that have the name of a class."""
        classes = self.classes()
        names = {self.categories[n]['name'] for n in classes}
        return [n for n, c in enumerate(self.categories) if n not in classes and c['name'] in names]

    def box_sizes(self) -> Ints:
        """Return the width and height of each box's image, (n, 2), 0 if they are unknown."""
        return np.vstack([self.sizes, [0, 0]])[self.image]  # -1 is the last

    def image_place(self, index: int) -> str:
        """Return where an image is, for a person."""
        return f'images[{self.images_at[index]}] ({self.files[index]})'

    def box_place(self, index: int) -> str:
        """Return where a box is, for a person."""
        image = self.image[index]
        return f'annotations[{self.boxes_at[index]}]' + (f' ({self.files[image]})' if image >= 0 else '')


def sound_boxes(table: Table) -> Mask:
    """Return which boxes have an image, a category, finite numbers and a size, (n,)."""
    known = (table.image >= 0) & (table.category >= 0)
    return np.asarray(known & np.isfinite(table.boxes).all(1) & (table.boxes[:, 2:] > 0).all(1), dtype=bool)


def _limits(table: Table) -> Floats:
    """Return the width and height of each box's image, (n, 2), infinite if they are unknown."""
    sizes = table.box_sizes()
    return np.where(sizes == 0, np.inf, sizes)


def box_faults(table: Table) -> dict[str, Mask]:
    """Return which boxes (n,) have which kind of problem, each box in the first kind only."""
    x, y, width, height = table.boxes.T
    with np.errstate(invalid='ignore', over='ignore'):
        finite = np.isfinite(table.boxes).all(1) & np.isfinite(x + width) & np.isfinite(y + height)
        known = table.image >= 0
        across, down = _limits(table).T
        beyond = np.maximum.reduce([-x, -y, x + width - across, y + height - down])
        far = (x + width - across > FAR * across) | (y + height - down > FAR * down)
        as_corners = (x >= 0) & (y >= 0) & (width > x) & (height > y) & (width <= across) & (height <= down)
        # Either all boxes of an image were written as corners, or none.
        others = np.bincount(table.image[known & ~as_corners], minlength=len(table.files)) > 0
        as_corners[known] &= ~others[table.image[known]]
        return _first_of(
            {
                'box not finite': ~finite,
                'swapped corners': (width < 0) | (height < 0),
                'corners for sizes': far & as_corners,
                'empty box': (width < 1) | (height < 1),
                'box outside': (x >= across) | (y >= down) | (x + width <= 0) | (y + height <= 0),
                'box sticks out': beyond > 1,
                'tiny box': (width < TINY) | (height < TINY),
            }
        )


def _first_of(masks: dict[str, Any]) -> dict[str, Mask]:
    """Return masks, each without what is in an earlier one."""
    taken = np.zeros_like(next(iter(masks.values())))
    first = {}
    for name, mask in masks.items():
        first[name] = mask & ~taken
        taken |= mask
    return first


def unlike_polygons(table: Table) -> Mask:
    """Return which boxes are not around their polygons, as far as both are inside the image, (n,)."""
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


def left_out(table: Table, classes: Iterable[str], min_size: int = 0) -> dict[str, int]:
    """Count the boxes that mmdet's ``CocoDataset`` does not train on, by the first reason that holds."""
    names = set(classes)
    known = np.array([*(category['name'] in names for category in table.categories), False])
    sizes = table.box_sizes()
    with np.errstate(invalid='ignore', over='ignore'):
        low, size = table.boxes[:, :2], table.boxes[:, 2:]
        inside = np.minimum(low + size, sizes) - np.maximum(low, 0)
        masks = _first_of(
            {
                'of unknown images': table.image < 0,
                'in images without a size': (sizes < 1).any(1),
                'with ignore': table.ignored,
                'under 1 px': (size < 1).any(1),
                'outside the image': (inside <= 0).any(1),
                'with an area of 0 or below': table.no_area,
                'of other classes': ~known[table.category],
                'crowd': table.crowd,
                f'in images under {min_size} px': sizes.min(1) < min_size,
            }
        )
    return {reason: int(mask.sum()) for reason, mask in masks.items() if mask.any()}


def reasons(left: dict[str, int]) -> str:
    """Return the end of a sentence that says why boxes are not used."""
    listed = ', '.join(f'{count:,} {reason}' for reason, count in left.items())
    return f'; left out: {listed}' if listed else ''

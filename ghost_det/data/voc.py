"""Pascal VOC data sets."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.images import SUFFIXES

from .convert import WORDS, Layout, Pair, Read, choose_splits, files_in, read_list

SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
CONTAINERS = {
    *('jpegimages', 'images', 'image', 'imgs', 'img'),
    *('annotations', 'annotation', 'annots', 'xmls', 'xml', 'labels'),
}
"""Names of folders, in lower case, that do not belong to the name of an image."""


def find_voc(root: Path) -> Layout | None:
    """Return the layout of a Pascal VOC data set, ``None`` if the folder has no pairs of image and xml.

    Image and xml match by their paths without `CONTAINERS` and suffix, else by their names. Splits are the
    lists in ``ImageSets/Main``, else the first folders if all are named as splits; else everything is train.
    """
    bases = [root, *sorted(root.glob('VOC*')), *sorted(root.glob('VOCdevkit/VOC*'))]
    listed = [base for base in bases if (base / 'ImageSets/Main').is_dir()]
    base = listed[0] if listed else root
    labels = files_in(base, ('.xml',))
    images = files_in(base, SUFFIXES) if labels else []
    index = _index(base, images)
    label_of: dict[Path, Path] = {}
    orphans = []
    for label in labels:
        image = index.get(_key(base, label)) or index.get(label.stem)
        if image is None or image in label_of:
            orphans.append(label)
        else:
            label_of[image] = label
    parts: dict[str, list[Pair]] = defaultdict(list)
    if listed:
        orphans = []  # the lists may be of a part of the data set
        files = [base / f'ImageSets/Main/{word}.txt' for word in (*WORDS, 'trainval')]
        for file in filter(Path.is_file, files):
            for name in read_list(file):
                # Lists of one class have a flag behind each name.
                image = index.get(name) or index.get(re.sub(r'\s+-?[01]$', '', name))
                image = image or base / f'JPEGImages/{name}.jpg'
                parts[file.stem].append((image, label_of.get(image, base / f'Annotations/{name}.xml')))
    else:
        folders = {image.parent for image in label_of}  # others may have pictures of anything
        used = [image for image in images if image.parent in folders]
        words = [_key(root, image).partition('/')[0].lower() for image in used]
        if not {*words} <= {*WORDS}:
            words = ['train'] * len(used)
        for image, word in zip(used, words):
            parts[word].append((image, label_of.get(image, image.with_suffix('.xml'))))
    splits, note = choose_splits(base, parts)
    if 'train' not in splits and parts['trainval']:
        val = set(splits.get('val', ()))
        splits['train'] = [pair for pair in parts['trainval'] if pair not in val]
        note = f'{note or base}{", and" if note else ":"} trainval.txt is used as train'
    unused = tuple(f'{other}: {base} is read' for other in listed[1:])
    return Layout(splits, read_voc, None, bool(listed), tuple(orphans), note, unused) if splits else None


def _key(root: Path, path: Path) -> str:
    """Return the path of an image or label file without `CONTAINERS` and suffix."""
    folders = path.relative_to(root).parts[:-1]
    return '/'.join([*(each for each in folders if each.lower() not in CONTAINERS), path.stem])


def _index(root: Path, files: list[Path]) -> dict[str, Path | None]:
    """Return files by name and by `_key`, with and without suffix; ``None`` for a name of several."""
    index: dict[str, Path | None] = {}
    for path in files:
        for name in {path.name, path.stem}:
            index[name] = None if name in index else path
    for path in files:
        index[_key(root, path)] = index[_key(root, path) + path.suffix] = path
    return index


def read_voc(label: Path, size: tuple[int, int], tag: int) -> Read:
    """Read an xml file; a `Reader`."""
    try:
        from defusedxml.ElementTree import parse  # which refuses entity bombs and external entities
    except ImportError as error:
        raise UserError(
            f'{label}: Pascal VOC needs defusedxml ({error}): pip install "ghost-det[data]"'
        ) from None
    annotation = parse(label).getroot()
    if annotation.tag.lower() != 'annotation':
        raise ValueError(f"not Pascal VOC's: expected <annotation>, got <{annotation.tag}>")
    found: list[Any] = []
    for each in annotation.findall('object'):
        name, difficult = (each.findtext(key, '').strip() for key in ('name', 'difficult'))
        x1, y1, x2, y2 = (float(each.findtext(f'bndbox/{side}', '')) for side in SIDES)
        if not name or not math.isfinite(x1 + y1 + x2 + y2):
            raise ValueError(f'expected a name and four finite numbers, got {name!r}, {x1} {y1} {x2} {y2}')
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
        # Pixels count from 1 and the last is included: of the box's corners, only the first moves.
        found.append((name, [x1 - 1, y1 - 1, x2, y2], int(difficult == '1')))
    declared = tuple(float(annotation.findtext(f'size/{side}') or 0) for side in ('width', 'height'))
    if declared == size or not all(declared):
        return found, []
    sizes = f'orientation {tag}, loaded as {size[0]} x {size[1]}, <size> is {declared[0]:g} x {declared[1]:g}'
    inside = all(x <= size[1] + 1 and y <= size[0] + 1 for _, (_, _, x, y), _ in found)
    if tag < 5 or declared != size[::-1] or not inside:
        return found, [('wrong size', sizes)]
    return [(name, _turned(box, size, tag), crowd) for name, box, crowd in found], [('turned boxes', sizes)]


def _turned(box: list[float], size: tuple[int, int], tag: int) -> list[float]:
    """Return corners in a stored image as corners in the image of ``size`` that is loaded."""
    y1, x1, y2, x2 = box
    if tag in (6, 7):
        x1, x2 = size[0] - x2, size[0] - x1
    if tag in (7, 8):
        y1, y2 = size[1] - y2, size[1] - y1
    return [x1, y1, x2, y2]

"""Pascal VOC data sets."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.images import SUFFIXES

from .convert import WORDS, Layout, Pair, Read, check_length, choose_splits, files_in
from .entries import as_number

SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
CONTAINERS = {
    *('jpegimages', 'images', 'image', 'imgs', 'img'),
    *('annotations', 'annotation', 'annots', 'xmls', 'xml', 'labels'),
}
"""Names of folders, in lower case, that do not belong to the name of an image."""


def find_voc(root: Path) -> Layout | None:
    """Return the layout of a Pascal VOC data set, ``None`` if the folder has no pairs of image and xml.

    Image and xml match by their paths without `CONTAINERS` and suffix, else by their names, else by the name
    in the xml. Splits are the first folders if all are named as splits; else everything is train.
    """
    bases = [root, *sorted(root.glob('VOC*')), *sorted(root.glob('VOCdevkit/VOC*'))]
    lists = [base for base in bases if (base / 'ImageSets/Main').is_dir()]
    if lists:
        return _find_lists(lists[0], tuple(f'{other}: {lists[0]} is read' for other in lists[1:]))
    labels = files_in(root, ('.xml',))
    images = files_in(root, SUFFIXES) if labels else []
    index = _index(root, images)
    label_of: dict[Path, Path] = {}
    orphans = []
    for label in labels:
        image = index.get(_key(root, label)) or index.get(label.stem) or index.get(_image_name(label))
        if image is None or image in label_of:
            orphans.append(label)
        else:
            label_of[image] = label
    folders = {image.parent for image in label_of}  # others may have pictures of anything
    used = {image: _key(root, image).partition('/')[0].lower() for image in images if image.parent in folders}
    named = {*used.values()} <= {*WORDS}
    parts: dict[str, list[Pair]] = {}
    for image, word in used.items():
        pair = image, label_of.get(image, image.with_suffix('.xml'))
        parts.setdefault(word if named else 'train', []).append(pair)
    splits, note = choose_splits(root, parts)
    unused = ('YOLO labels: the xml files of Pascal VOC are read',) * any(root.rglob('classes.txt'))
    return Layout(splits, read_voc, orphans=tuple(orphans), note=note, unused=unused) if splits else None


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


def _find_lists(base: Path, unused: tuple[str, ...]) -> Layout | None:
    """Return the layout of a folder whose lists in ``ImageSets/Main`` name the images of each split."""
    lists = base / 'ImageSets/Main'
    images, labels = (_index(base, files_in(base, suffixes)) for suffixes in (SUFFIXES, ('.xml',)))

    def pair(name: str) -> Pair:
        if name not in labels and name not in images:  # lists of one class have a flag behind each name
            name = re.sub(r'\s+-?[01]$', '', name)
        label = labels.get(name) or labels.get(os.path.splitext(name)[0]) or base / f'Annotations/{name}.xml'
        image = images.get(name) or images.get(label.stem) or images.get(_image_name(label))
        return image or base / f'JPEGImages/{name}.jpg', label

    parts = {}
    for word in (*WORDS, 'trainval'):
        if (lists / f'{word}.txt').is_file():
            text = (lists / f'{word}.txt').read_text(encoding='utf-8-sig', errors='surrogateescape')
            parts[word] = [pair(line.strip()) for line in text.splitlines() if line.strip()]
    splits, note = choose_splits(lists, parts)
    if 'train' not in splits and parts.get('trainval'):
        val = set(splits.get('val', ()))
        splits['train'] = [each for each in parts['trainval'] if each not in val]
        note = f'{note or lists}{", and" if note else ":"} trainval.txt is taken as train'
    return Layout(splits, read_voc, listed=True, note=note, unused=unused) if splits else None


def _image_name(label: Path) -> str:
    """Return the image's name that is written in an xml file, or ``''``."""
    try:
        text = _read_xml(label).findtext('filename') or ''
    except (OSError, ValueError, SyntaxError):  # reported when its boxes are read
        return ''
    return str(text).strip().replace('\\', '/').rpartition('/')[2]


def read_voc(label: Path, size: tuple[int, int], tag: int) -> Read:
    """Read an xml file; a `Reader`."""
    annotation = _read_xml(label)
    if annotation.tag.lower() != 'annotation':
        raise ValueError(f"not Pascal VOC's: expected <annotation>, got <{annotation.tag}>")
    found: list[Any] = []
    for each in annotation.findall('object'):
        name, *sides = (_text(each, key) for key in ('name', *map('bndbox/{}'.format, SIDES)))
        x1, y1, x2, y2 = map(float, sides)
        if not math.isfinite(x1 + y1 + x2 + y2):
            raise ValueError(f'bndbox of {name!r} has NaN or infinity')
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
        # Pixels count from 1 and the last is included: of the box's corners, only the first moves.
        hard = int((each.findtext('difficult') or '').strip() == '1')
        found.append((name, [x1 - 1, y1 - 1, x2, y2], hard))
    declared = tuple(as_number(annotation.findtext(f'size/{side}')) for side in ('width', 'height'))
    if declared == size or not all(declared):
        return found, []
    sizes = f'orientation {tag}, loaded as {size[0]} x {size[1]}, <size> is {declared[0]:g} x {declared[1]:g}'
    inside = all(x <= size[1] + 1 and y <= size[0] + 1 for _, (_, _, x, y), _ in found)
    if tag < 5 or declared != size[::-1] or not inside:
        return found, [('wrong size', sizes)]
    return [(name, _turned(box, size, tag), hard) for name, box, hard in found], [('turned boxes', sizes)]


def _turned(box: list[float], size: tuple[int, int], tag: int) -> list[float]:
    """Return corners in a stored image as corners in the image of ``size`` that is loaded."""
    y1, x1, y2, x2 = box
    if tag in (6, 7):
        x1, x2 = size[0] - x2, size[0] - x1
    if tag in (7, 8):
        y1, y2 = size[1] - y2, size[1] - y1
    return [x1, y1, x2, y2]


def _read_xml(label: Path) -> Any:
    try:
        from defusedxml.ElementTree import parse  # which refuses entity bombs and external entities
    except ImportError as error:
        raise UserError(
            f'{label}: Pascal VOC needs defusedxml ({error}): pip install "ghost-det[data]"'
        ) from None
    check_length(label)
    return parse(label).getroot()


def _text(element: Any, path: str) -> str:
    text = (element.findtext(path) or '').strip()
    if not text:
        raise ValueError(f'no {path} in <{element.tag}>')
    return text

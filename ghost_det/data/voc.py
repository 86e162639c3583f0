"""Pascal VOC data sets."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.images import visible

from .entries import as_number
from .label_files import WORDS, Layout, Pair, Read, by_folder, check_length, choose_splits, images_in

VOC_IMAGES = ('jpegimages', 'images', 'image', 'imgs', 'img')
VOC_LABELS = ('annotations', 'annotation', 'annots', 'xmls', 'xml', 'labels')
Files = tuple[Path, list[Path]]


def find_voc(root: Path) -> Layout | None:
    """Return the layout of a Pascal VOC data set, or ``None``."""
    bases = [root, *sorted(root.glob('VOC*')), *sorted(root.glob('VOCdevkit/VOC*'))]
    for number, base in enumerate(bases, 1):
        layout = _voc_lists(base)
        if layout:
            others = [str(each) for each in bases[number:] if (each / 'ImageSets/Main').is_dir()]
            return replace(layout, unused=tuple(f'{each}: {base} is read' for each in others))
    found = {word: _voc_pairs(root / word) for word in WORDS}
    parts = {word: ([*pairs.values()], lost) for word, (pairs, lost) in found.items() if pairs}
    if not parts:
        pairs, lost = _voc_pairs(root)
        parts = {word: (each, []) for word, each in by_folder(pairs).items()}
        parts.get('train', ([], []))[1].extend(lost)
    splits, note = choose_splits(root, {word: pairs for word, (pairs, _) in parts.items()})
    orphans = {name: lost for name, own in splits.items() for each, lost in parts.values() if each is own}
    return Layout('voc', splits, orphans=orphans, note=note) if splits else None


def _voc_lists(base: Path) -> Layout | None:
    """Return the layout of a folder whose lists in ``ImageSets/Main`` name the images of each split."""
    lists = base / 'ImageSets/Main'
    files = [lists / f'{word}.txt' for word in (*WORDS, 'trainval')]
    places = _voc_folders(base) if any(file.is_file() for file in files) else None
    if places is None:
        return None
    images, labels = (_index(*place) for place in places)

    def pair(name: str) -> Pair:
        label = labels.get(name) or labels.get(os.path.splitext(name)[0]) or places[1][0] / f'{name}.xml'
        image = images.get(name) or images.get(label.stem) or images.get(_named_in(label))
        return image or places[0][0] / f'{name}.jpg', label

    parts = {}
    for file in files:
        if file.is_file():
            text = file.read_text(encoding='utf-8-sig', errors='surrogateescape')
            names = [line.strip() for line in text.splitlines() if line.strip()]
            bare = [re.sub(r'\s+-?[01]$', '', name) for name in names]
            if not set(names) & set(bare):  # of one class, with 1, 0 or -1 behind each name
                names = bare
            parts[file.stem] = [pair(name) for name in names]
    splits, note = choose_splits(lists, parts)
    if 'train' not in splits and parts.get('trainval'):
        val = set(splits.get('val', ()))
        splits['train'] = [each for each in parts['trainval'] if each not in val]
        note = f'{note or lists}{", and" if note else ":"} trainval.txt is taken as train'
    return Layout('voc', splits, listed=True, note=note) if splits else None


def _voc_folders(base: Path) -> tuple[Files, Files] | None:
    """Return the folders of images and of xml files, each with its files; ``None`` where there is no xml."""
    if not base.is_dir():
        return None
    inside = {path.name.lower(): path for path in sorted(base.glob('*')) if path.is_dir()}
    for word in VOC_LABELS:
        labels = visible(inside[word], '**/*.xml') if word in inside else []
        if labels:
            at = next((inside[each] for each in VOC_IMAGES if each in inside), base)
            return (at, images_in(at, '**/*')), (inside[word], labels)
    labels = [path for pattern in ('*.xml', '*/*.xml') for path in visible(base, pattern)]
    images = [path for pattern in ('*', '*/*') if labels for path in images_in(base, pattern)]
    return ((base, images), (base, labels)) if images else None


def _voc_pairs(base: Path) -> tuple[dict[str, Pair], list[Path]]:
    """Return image and xml by their name in the folder of images, and the xml files without image."""
    places = _voc_folders(base)
    if places is None:
        return {}, []
    (images_at, images), (labels_at, labels) = places
    index = _index(images_at, images)
    label_of: dict[Path, Path] = {}
    lost = []
    for label in labels:
        name = label.relative_to(labels_at).with_suffix('').as_posix()
        image = index.get(name) or index.get(label.stem) or index.get(_named_in(label))
        if image is None or image in label_of:
            lost.append(label)
        else:
            label_of[image] = label
    folders = {path.parent for path in label_of}  # in other ones may lie pictures of anything
    return {
        path.relative_to(images_at).as_posix(): (path, label_of.get(path, path.with_suffix('.xml')))
        for path in images
        if path.parent in folders
    }, lost if label_of else []


def _index(folder: Path, files: list[Path]) -> dict[str, Path | None]:
    """Return files by path and by name, both with and without suffix; ``None`` for a name of several."""
    index: dict[str, Path | None] = {}
    for path in files:
        for key in {path.name, path.stem}:
            index[key] = None if key in index else path
    for path in files:
        inside = path.relative_to(folder)
        index[inside.as_posix()] = index[inside.with_suffix('').as_posix()] = path
    return index


def _named_in(label: Path) -> str:
    """Return the image's name that an xml file has inside, or ``''``."""
    try:
        check_length(label)
        return (_parse_xml(label).findtext('filename') or '').strip().replace('\\', '/').rpartition('/')[2]
    except (OSError, ValueError, SyntaxError):  # to be reported when its boxes are read
        return ''


def read_voc(label: Path, size: tuple[int, int], tag: int) -> Read:
    """Read an xml file; a `Reader`."""
    check_length(label)
    annotation = _parse_xml(label)
    if annotation.tag.lower() != 'annotation':
        raise ValueError(f"not Pascal VOC's: expected <annotation>, got <{annotation.tag}>")
    found: list[Any] = []
    for each in annotation.findall('object'):
        name, box = _text(each, 'name'), each.find('bndbox')
        if box is None:
            raise ValueError(f'Missing bndbox of {name!r}')
        x1, y1, x2, y2 = (_coordinate(box, tag) for tag in ('xmin', 'ymin', 'xmax', 'ymax'))
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
        # Pixels count from 1 and the last is included: of the box's corners, only the first moves.
        hard = int((each.findtext('difficult') or '').strip() == '1')
        found.append((name, [x1 - 1, y1 - 1, x2, y2], hard))
    declared = tuple(as_number(annotation.findtext(f'size/{side}')) for side in ('width', 'height'))
    if declared == size or not all(declared):
        return found, []
    there = f'orientation {tag}, loaded as {size[0]} x {size[1]}, <size> is {declared[0]:g} x {declared[1]:g}'
    inside = all(x <= size[1] + 1 and y <= size[0] + 1 for _, (_, _, x, y), _ in found)
    if tag < 5 or declared != size[::-1] or not inside:
        return found, [('wrong size', there)]
    return [(name, _turned(box, size, tag), hard) for name, box, hard in found], [('turned boxes', there)]


def _turned(box: list[float], size: tuple[int, int], tag: int) -> list[float]:
    """Return corners in a stored image as they are in the one of ``size`` that is loaded."""
    y1, x1, y2, x2 = box
    if tag in (6, 7):
        x1, x2 = size[0] - x2, size[0] - x1
    if tag in (7, 8):
        y1, y2 = size[1] - y2, size[1] - y1
    return [x1, y1, x2, y2]


def _parse_xml(label: Path) -> Any:
    try:
        from defusedxml.ElementTree import parse  # which refuses entity bombs and external entities
    except ImportError as error:
        raise UserError(
            f'{label}: Pascal VOC needs defusedxml ({error}): pip install "ghost-det[data]"'
        ) from None
    return parse(label).getroot()


def _text(element: Any, tag: str) -> str:
    text = (element.findtext(tag) or '').strip()
    if not text:
        raise ValueError(f'Missing {tag} in <{element.tag}>')
    return text


def _coordinate(box: Any, tag: str) -> float:
    value = float(_text(box, tag))
    if not math.isfinite(value):
        raise ValueError(f'{tag} is {value}')
    return value

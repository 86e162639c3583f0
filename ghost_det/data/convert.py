"""Pascal VOC and YOLO data sets, converted to COCO json in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from ghost_det.errors import UserError
from ghost_det.utils.files import build_once, cache_root, decode
from ghost_det.utils.images import visible

from .image_facts import header

VERSION = 7  # part of the cache folder's name: raise it with any change to what is written
SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation', 'test')}
WORDS = ('train', *SPLITS['val'])
DEPTH = 4  # levels of folders in which files are looked for
READ_ERRORS = (OSError, ValueError, SyntaxError, LookupError, OverflowError, Image.DecompressionBombError)
"""Of Pillow and of the parsers of XML."""
Pair = tuple[Path, Path]
"""An image and its label file."""
Read = tuple[list[tuple[Any, list[float], int]], list[tuple[str, str]]]
"""Class, corners and crowd of each object; and what is wrong, with its kind of `annotations.CONVERTED`."""
Reader = Callable[[Path, tuple[int, int], int], Read]
"""Reads a label file, given the size of its image as loaded, and the orientation it is turned by."""


@dataclass(frozen=True)
class Layout:
    """A data set in another format than COCO's: pairs of image and label file for each split."""

    splits: dict[str, list[Pair]]  # files may be missing
    read: Reader = field(repr=False)
    classes: list[str] | None = None  # where they are written down
    listed: bool = False  # an image without a label file is an error, not background
    orphans: tuple[Path, ...] = ()  # label files without image
    note: str = ''  # where val comes from, if it is not the data set's own
    unused: tuple[str, ...] = ()  # other data in the folder that is not read
    keypoints: int = 0  # numbers behind a box of YOLO, 0 for polygons


def files_in(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files with one of these suffixes in a folder, and in the folders in it."""
    paths = (path for level in range(DEPTH) for path in visible(root, '*/' * level + '*'))
    return [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]


def choose_splits(root: Path, parts: dict[str, list[Pair]]) -> tuple[dict[str, list[Pair]], str]:
    """Return train, and as val the likeliest of the others; with a note if that is test."""
    val = next((word for word in SPLITS['val'] if parts.get(word)), '')
    splits = {name: parts[word] for name, word in (('train', 'train'), ('val', val)) if parts.get(word)}
    return splits, f'{root}: val is missing or empty: test is used as val' if val == 'test' else ''


def read_list(file: Path) -> list[str]:
    """Return the lines of a list of images or of classes."""
    try:
        lines = decode(file.read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f'{file}: cannot be read: {error}') from None
    return [line.strip() for line in lines if line.strip()]


def converted(source: Path, root: Path, layout: Layout) -> dict[str, Path]:
    """Return COCO annotations of each split of a folder or yaml, whose file names start from ``root``."""
    files = chain.from_iterable(chain(*layout.splits.values()))
    folder = cached(source, [repr(layout), *map(state_of, files)], lambda: _convert(root, layout))
    return {name: folder / f'{name}.json' for name in layout.splits}


def cached(source: object, state: Iterable[str], make: Callable[[], dict[str, Any]]) -> Path:
    """Return the cache folder with the json files made of ``source`` in this state; remove older ones."""
    place, digest = (
        hashlib.blake2b(text.encode('utf-8', 'surrogateescape'), digest_size=8).hexdigest()
        for text in (str(source), '\n'.join(state))
    )

    def build(folder: Path) -> None:
        for name, content in make().items():
            (folder / f'{name}.json').write_text(json.dumps(content), encoding='utf-8')

    folder = build_once(cache_root() / f'converted-v{VERSION}-{place}-{digest}', build)
    for stale in folder.parent.glob(f'converted-v*-{place}-*'):
        if stale != folder:
            shutil.rmtree(stale, ignore_errors=True)
    return folder


def state_of(file: Path) -> str:
    """Return the size and time of a file, which change with its content."""
    try:
        found = file.stat()
    except (OSError, ValueError):  # a name may be too long, or have a null byte
        return 'none'
    return f'{found.st_size} {found.st_mtime_ns}'


def _convert(root: Path, layout: Layout) -> dict[str, dict[str, Any]]:
    """Return the content of the COCO file of each split."""
    contents = {name: _read_split(root, pairs, layout) for name, pairs in layout.splits.items()}
    boxes = [box for content in contents.values() for box in content['annotations']]
    classes = layout.classes
    if classes is None:
        classes = sorted({box['category_id'] for box in boxes})
        for box in boxes:
            box['category_id'] = classes.index(box['category_id'])
    for content in contents.values():
        content['categories'] = [{'id': number, 'name': name} for number, name in enumerate(classes)]
    info = next(iter(contents.values()))['info']
    info['label file without image'] = [os.path.relpath(path, root) for path in layout.orphans]
    info['data not used'] = layout.unused
    return contents


def _read_split(root: Path, pairs: Iterable[Pair], layout: Layout) -> dict[str, Any]:
    """Return the content of a COCO file, with the class as the reader gives it, and in info what is wrong."""
    info: dict[str, Any] = defaultdict(list, description=f'converted from {root}')
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for path, label in pairs:
        file, labels = os.path.relpath(path, root), os.path.relpath(label, root)
        if not os.path.isfile(path):
            info['missing file'].append(file)
            continue
        labelled = layout.listed or os.path.isfile(label)
        if not labelled:
            info['image without labels'].append(f'{file}: no {labels}')
        try:
            with Image.open(path) as image:
                facts = header(image)
            width, height = facts['loaded']
            tag = facts['orientation'] if facts['turned'] else 1
            found, remarks = layout.read(label, (width, height), tag) if labelled else ([], [])
        except READ_ERRORS as error:
            info['wrong label file'].append(f'{labels} of {file}: {type(error).__name__}: {error}')
            continue
        images.append({'id': len(images) + 1, 'file_name': file, 'width': width, 'height': height})
        for name, (x1, y1, x2, y2), crowd in found:
            box = {'id': len(boxes) + 1, 'image_id': len(images), 'category_id': name, 'iscrowd': crowd}
            boxes.append({**box, 'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1)})
        for kind, remark in remarks:
            info[kind].append(f'{labels} of {file}: {remark}')
    return {'info': info, 'images': images, 'annotations': boxes}

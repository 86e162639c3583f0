"""Pascal VOC and YOLO data sets, converted to COCO json in a cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from ghost_det.errors import UserError
from ghost_det.utils.images import visible

from .cache import build_once, cache_root
from .image_facts import header
from .label_files import Layout, Pair, Reader
from .voc import find_voc, read_voc
from .yolo import find_yolo, find_yolo_plain, yolo_reader

VERSION = 5  # part of the cache folder's name: raise it with any change to what is written
READ_ERRORS = (OSError, ValueError, SyntaxError, LookupError, OverflowError, Image.DecompressionBombError)
"""Of Pillow and of the parsers of XML."""


def find_layout(root: Path) -> Layout | None:
    """Recognise the layout of a folder or ``data.yaml`` as Pascal VOC's or YOLO's, or return ``None``."""
    if root.is_file():
        layout = find_yolo(root)
        if layout is None:
            raise UserError(f'{root}: expected a YOLO data.yaml with "names" and "train"')
        return layout
    failed = []
    for yaml in sorted(visible(root, '*.y*ml'), key=lambda path: path.stem != 'data'):
        try:
            layout = find_yolo(yaml)
        except UserError as error:
            if yaml.stem == 'data':
                raise
            failed.append(error)  # another file need not belong to the data set
            continue
        if layout:
            return layout
    layout, other = find_voc(root), find_yolo_plain(root)
    if layout and other:
        layout = replace(layout, unused=('YOLO labels: the xml files of Pascal VOC are read', *layout.unused))
    layout = layout or other
    if layout is None and failed:
        raise failed[0]
    return layout


def converted(root: Path, layout: Layout | None = None) -> dict[str, Path]:
    """Return COCO annotations of each split of a VOC or YOLO data set; empty for another layout.

    They are kept in the user's cache, never in the data's own folder, and made again when a file of the data
    set has changed. File names start from ``root``, or the folder of the yaml that it is.
    """
    layout = layout or find_layout(root)
    if layout is None:
        return {}
    base = root.parent if root.is_file() else root
    files = chain.from_iterable(chain(*layout.splits.values()))
    folder = cached((root, None), [repr(layout), *map(_state, files)], lambda: _convert(base, layout))
    return {name: folder / f'{name}.json' for name in layout.splits}


def cached(
    source: tuple[Path, float | None], state: Iterable[str], make: Callable[[], dict[str, Any]]
) -> Path:
    """Return the folder of the cache with the json files that were made of a data set in this state."""
    place, digest = (
        hashlib.blake2b('\n'.join(map(str, lines)).encode('utf-8', 'surrogateescape'), digest_size=8)
        for lines in (source, state)
    )

    def build(folder: Path) -> None:
        for name, content in make().items():
            (folder / f'{name}.json').write_text(json.dumps(content), encoding='utf-8')

    name = f'converted-v{VERSION}-{place.hexdigest()}-{digest.hexdigest()}'
    folder = build_once(cache_root() / name, build)
    for stale in folder.parent.glob(f'converted-v*-{place.hexdigest()}-*'):
        if stale != folder:
            shutil.rmtree(stale, ignore_errors=True)
    return folder


def _state(file: Path) -> str:
    try:
        found = file.stat()
    except (OSError, ValueError):  # of names that no file system has, too
        return 'none'
    return f'{found.st_size} {found.st_mtime_ns}'


def _convert(root: Path, layout: Layout) -> dict[str, dict[str, Any]]:
    read: Reader = read_voc if layout.kind == 'voc' else yolo_reader(root, layout)
    names = list(layout.classes or [])
    contents = {}
    for split, pairs in layout.splits.items():
        images, objects, problems = _read_labels(root, pairs, read, layout.listed)
        problems['description'] = f'converted from {root}'
        problems['label file without image'] = [
            os.path.relpath(p, root) for p in layout.orphans.get(split, [])
        ]
        problems['data not used'] = [*layout.unused] if split == 'train' else []
        if layout.classes is None:
            names += sorted({name for _, name, *_ in objects} - set(names))
        first = 1 if layout.classes is None else 0
        ids = {name: number for number, name in enumerate(names, 1)} if layout.classes is None else {}
        contents[split] = {
            'info': problems,
            'images': images,
            'annotations': [
                {
                    'id': number,
                    'image_id': image,
                    'category_id': ids.get(name, name),
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': crowd,
                }
                for number, (image, name, (x1, y1, x2, y2), crowd) in enumerate(objects, 1)
            ],
            'categories': [{'id': number, 'name': name} for number, name in enumerate(names, first)],
        }
    return contents


def _read_labels(
    root: Path, pairs: Iterable[Pair], read: Reader, listed: bool
) -> tuple[list[dict[str, Any]], list[tuple[int, Any, list[float], int]], dict[str, Any]]:
    """Return images as COCO has them, objects with the id of theirs, and what is wrong by kind."""
    images: list[dict[str, Any]] = []
    objects = []
    problems: dict[str, Any] = defaultdict(list)
    for path, label in pairs:
        file, labels = os.path.relpath(path, root), os.path.relpath(label, root)
        if not os.path.isfile(path):
            problems['missing file'].append(file)
            continue
        labelled = os.path.isfile(label) or listed
        if not labelled:
            problems['image without labels'].append(f'{file}: no {labels}')
        try:
            (width, height), tag = _size(path)
            found, remarks = read(label, (width, height), tag) if labelled else ([], [])
        except READ_ERRORS as error:
            problems['wrong label file'].append(f'{labels} of {file}: {type(error).__name__}: {error}')
            continue
        images.append({'id': len(images) + 1, 'file_name': file, 'width': width, 'height': height})
        objects += [(len(images), *each) for each in found]
        for kind, remark in remarks:
            problems[kind].append(f'{labels} of {file}: {remark}')
    return images, objects, problems


def _size(path: Path) -> tuple[tuple[int, int], int]:
    """Return width and height as mmcv loads the image, and the orientation by which it is turned for that."""
    with Image.open(path) as image:
        facts = header(image)
    return facts['loaded'], facts['orientation'] if facts['turned'] else 1

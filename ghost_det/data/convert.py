"""Pascal VOC and YOLO data sets, converted to COCO json in a cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic_folder
from ghost_det.utils.images import visible

from .image_facts import header
from .label_files import Layout, Reader
from .sample import cache_root
from .voc import find_voc, read_voc
from .yolo import find_yolo, find_yolo_plain, yolo_reader

VERSION = 5  # part of the cache folder's name: raise it with any change to what is written


def find_layout(root: Path) -> Layout | None:
    """Recognise the layout of a folder or ``data.yaml`` as Pascal VOC's or YOLO's, or return ``None``.

    Raises:
        UserError: a YOLO ``data.yaml`` that does not lead to images.
    """
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

    They are kept in the user's cache (see `make_sample`), never in the data's own folder, and made again when
    any file of the data set was changed, added or removed. Processes may call this at the same time. File
    names start from ``root``, or the folder of the yaml that it is.

    Raises:
        UserError: a package is not installed, or the cache cannot be written.
    """
    layout = layout or find_layout(root)
    if layout is None:
        return {}
    base = root.parent if root.is_file() else root
    done = cached((root, layout.share), _state(base, layout), lambda: _convert(base, layout))
    return {name: done / f'{name}.json' for name in layout.splits}


def cached(
    source: tuple[Path, float | None], state: Iterable[str], make: Callable[[], dict[str, Any]]
) -> Path:
    """Return the folder of the cache with the json files that were made of a data set as it is now."""
    path, share = source
    place = hashlib.blake2b(os.fsencode(path) + f'{share}'.encode(), digest_size=8).hexdigest()
    digest = hashlib.blake2b(digest_size=8)
    for line in state:
        digest.update(line.encode('utf-8', 'surrogateescape'))
    cache = cache_root()
    done = cache / f'converted-v{VERSION}-{place}-{digest.hexdigest()}'
    if not done.is_dir():
        try:
            with atomic_folder(done) as built:
                for name, content in make().items():
                    (built / f'{name}.json').write_text(json.dumps(content), encoding='utf-8')
        except OSError as error:
            raise UserError(
                f'{cache}: converted annotations cannot be written ({error.strerror}); '
                'GHOST_DET_CACHE names another folder'
            ) from None
        for stale in cache.glob(f'converted-v*-{place}-*'):
            if stale != done:
                shutil.rmtree(stale, ignore_errors=True)
    return done


def _state(root: Path, layout: Layout) -> Iterator[str]:
    """Yield what the result depends on: names, sizes and times of all files, and the class names."""
    yield f'{layout.kind} {layout.classes} {layout.keypoints} {layout.orphans} {layout.unused}\n'
    for name, pairs in layout.splits.items():
        for path in (path for pair in pairs for path in pair):
            try:
                found = path.stat()
                yield f'{name} {path} {found.st_size} {found.st_mtime_ns}\n'
            except (OSError, ValueError):  # of names that no file system has, too
                yield f'{name} {path} none\n'


def _convert(root: Path, layout: Layout) -> dict[str, dict[str, Any]]:
    read: Reader = read_voc if layout.kind == 'voc' else yolo_reader(root, layout)
    names = list(layout.classes or [])
    contents = {}
    for split, pairs in layout.splits.items():
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        said: dict[str, Any] = defaultdict(list, description=f'converted from {root}')
        objects = []
        said['label file without image'] = [os.path.relpath(p, root) for p in layout.orphans.get(split, [])]
        said['data not used'] = layout.unused if split == 'train' else []
        for path, label in pairs:
            file = os.path.relpath(path, root)
            place = f'{os.path.relpath(label, root)} of {file}'
            if not os.path.isfile(path):
                said['missing file'].append(file)
                continue
            labelled = os.path.isfile(label) or layout.listed
            said['image without labels'] += [] if labelled else [f'{file}: no {os.path.relpath(label, root)}']
            try:
                (width, height), tag = _size(path)
                found, remarks = read(label, (width, height), tag) if labelled else ([], [])
            # The parsers of XML raise ValueError or SyntaxError, Pillow raises OSError.
            except (OSError, ValueError, SyntaxError, LookupError, OverflowError) as error:
                said['wrong label file'].append(f'{place}: {type(error).__name__}: {error}')
                continue
            images.append({'id': len(images) + 1, 'file_name': file, 'width': width, 'height': height})
            objects += [(len(images), *each) for each in found]
            for key, remark in remarks:
                said[key].append(f'{place}: {remark}')
        if layout.classes is None:
            names += sorted({name for _, name, *_ in objects} - set(names))
        ids = {name: number for number, name in enumerate(names, 1)} if layout.classes is None else {}
        for image, name, (x1, y1, x2, y2), crowd in objects:
            boxes.append(
                {
                    'id': len(boxes) + 1,
                    'image_id': image,
                    'category_id': ids.get(name, name),
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': crowd,
                }
            )
        first = 1 if layout.classes is None else 0
        contents[split] = {
            'info': said,
            'images': images,
            'annotations': boxes,
            'categories': [{'id': number, 'name': name} for number, name in enumerate(names, first)],
        }
    if layout.share is not None:  # which classes a part has is chance
        for content in contents.values():
            content['categories'] = contents['val']['categories']
    return contents


def _size(path: Path) -> tuple[tuple[int, int], int]:
    """Return width and height as mmcv loads the image, and the orientation by which it is turned for that."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # such are named later
            with Image.open(path) as image:
                facts = header(image)
                return facts['loaded'], facts['orientation'] if facts['turned'] else 1
    except Image.DecompressionBombError as error:
        raise ValueError(error) from None

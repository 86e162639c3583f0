"""Pascal VOC and YOLO layouts, read through supervision and kept as COCO json in a cache of ours."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..sample import cache_root

VERSION = 2  # part of the cache folder's name: raise it with any change to what is written
SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation', 'test')}
SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}
MAX_LABEL_BYTES = 2**24
MAX_CLASSES = 100_000
Pair = tuple[Path, Path]


@dataclass(frozen=True)
class Layout:
    """A data set that is not COCO's: pairs of image and label file for each split.

    Attributes:
        kind: ``'voc'`` or ``'yolo'``.
        splits: the pairs; of those named in a list, files may be missing.
        classes: the names, where they are written down.
        listed: images must have a label file; else one without is of background.
    """

    kind: str
    splits: dict[str, list[Pair]]
    classes: list[str] | None = None
    listed: bool = False


def find_layout(root: Path) -> Layout | None:
    """Recognise Pascal VOC's or YOLO's layout, or return ``None``.

    Raises:
        UserError: a YOLO ``data.yaml`` that does not lead to images.
    """
    for yaml in sorted(root.glob('*.y*ml')):
        layout = _yolo(root, yaml)
        if layout:
            return layout
    for base in (root, *sorted(root.glob('VOC*')), *sorted(root.glob('VOCdevkit/VOC*'))):
        lists, labels = base / 'ImageSets/Main', base / 'Annotations'
        found = {name: _first_file(lists, f'{name}.txt') for name in SPLITS}
        if labels.is_dir() and any(found.values()):
            images = {path.stem: path for path in _images(base / 'JPEGImages')}
            splits = {}
            for name, file in found.items():
                lines = file.read_text(encoding='utf-8').splitlines() if file else []
                stems = [line.split()[0] for line in lines if line.split()]
                default = base / 'JPEGImages'
                splits[name] = [(images.get(s, default / f'{s}.jpg'), labels / f'{s}.xml') for s in stems]
            return Layout('voc', splits, listed=True)
    splits = {}
    for name, words in SPLITS.items():
        for word in words:
            for images_at, labels_at in (('', ''), ('images', 'annotations'), ('images', 'labels')):
                pairs = [
                    (p, root / word / labels_at / f'{p.stem}.xml') for p in _images(root / word / images_at)
                ]
                if name not in splits and any(label.is_file() for _, label in pairs):
                    splits[name] = pairs
    return Layout('voc', splits) if splits else None


def _yolo(root: Path, yaml: Path) -> Layout | None:
    import yaml as pyyaml

    try:
        if not yaml.is_file():  # a pipe would be waited for
            return None
        _check_length(yaml)
        content = pyyaml.safe_load(yaml.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError, pyyaml.YAMLError) as error:
        raise UserError(f'{yaml}: cannot be read: {error}') from None
    if not isinstance(content, dict) or not {'names', 'train'} <= content.keys():
        return None
    names = content['names']
    if isinstance(names, dict) and all(type(key) is int and 0 <= key < MAX_CLASSES for key in names):
        names = [names.get(key, f'class {key}') for key in range(max(names, default=-1) + 1)]
    # What is there is not shown: by aliases, a small file can have a value that fills the memory as text.
    if not isinstance(names, list) or any(isinstance(name, list | dict) for name in names):
        raise UserError(
            f'{yaml}: names: a list of class names is wanted, or a mapping of numbers '
            f'from 0 to below {MAX_CLASSES:,} to names'
        )
    splits: dict[str, list[Pair]] = {}
    for name, words in SPLITS.items():
        places = [content[word] for word in words if content.get(word)]
        for place in places[:1]:
            folder = _yolo_folder(root, content.get('path') or '', place)
            if folder is None:
                said = repr(place) if isinstance(place, str) else f'a {type(place).__name__}'
                raise UserError(f'{yaml}: {name} is {said}: no such folder of images')
            # As ultralytics has it: the last folder "images" of the path becomes "labels".
            head, word, tail = f'{folder}/'.rpartition('/images/')
            labels = Path(f'{head}/labels/{tail}') if word else folder
            splits[name] = [
                (path, labels / path.relative_to(folder).with_suffix('.txt'))
                for path in _images(folder, '**/*')
            ]
    return Layout('yolo', splits, [str(name) for name in names])


def _yolo_folder(root: Path, path: Any, place: Any) -> Path | None:
    """Return the folder that ``train:`` names; Roboflow's exports say ``../train/images`` for their own."""
    if not isinstance(place, str) or not isinstance(path, str):
        return None
    inside = place.removeprefix('../')
    for folder in (root / path / place, root / place, root / inside):
        if folder.is_dir():
            return Path(os.path.normpath(folder))
    return None


def _first_file(folder: Path, pattern: str) -> Path | None:
    words = SPLITS[pattern.removesuffix('.txt')]
    return next((folder / f'{word}.txt' for word in words if (folder / f'{word}.txt').is_file()), None)


def _images(folder: Path, pattern: str = '*') -> list[Path]:
    return sorted(p for p in folder.glob(pattern) if p.suffix.lower() in SUFFIXES)


def converted(root: Path) -> dict[str, Path]:
    """Return COCO annotations of each split of a VOC or YOLO data set; empty for another layout.

    They are made once and kept in the user's cache (see `make_sample`), never in the data's own folder, and
    anew when any file of the data set was changed, added or removed. Processes may call this at the same
    time. File names start from ``root``.

    Raises:
        UserError: supervision is not installed, or the cache cannot be written.
    """
    layout = find_layout(root)
    if layout is None:
        return {}
    place = hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()
    state = hashlib.blake2b(digest_size=8)
    for line in _state(root, layout):
        state.update(line.encode('utf-8', 'surrogateescape'))
    cache = cache_root()
    done = cache / f'converted-v{VERSION}-{place}-{state.hexdigest()}'
    if not done.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f'.{done.name}-', dir=cache) as scratch:
                built = Path(scratch) / 'set'
                built.mkdir()
                for name, content in _convert(root, layout).items():
                    (built / f'{name}.json').write_text(json.dumps(content), encoding='utf-8')
                try:
                    built.rename(done)
                except OSError:
                    if not done.is_dir():  # else another process was first, with the same content
                        raise
        except OSError as error:
            raise UserError(
                f'{cache}: converted annotations cannot be written ({error.strerror}); '
                'GHOST_DET_CACHE names another folder'
            ) from None
        for stale in cache.glob(f'converted-v*-{place}-*'):
            if stale != done:
                shutil.rmtree(stale, ignore_errors=True)
    return {name: done / f'{name}.json' for name in layout.splits}


def _state(root: Path, layout: Layout) -> Iterator[str]:
    """Yield what the result depends on: names, sizes and times of all files, and the class names."""
    yield f'{layout.kind} {layout.classes}'
    for name, pairs in layout.splits.items():
        for path in (path for pair in pairs for path in pair):
            try:
                found = path.stat()
                yield f'{name} {path} {found.st_size} {found.st_mtime_ns}\n'
            except OSError:
                yield f'{name} {path} none\n'


def _convert(root: Path, layout: Layout) -> dict[str, dict[str, Any]]:
    try:
        read = _voc_reader() if layout.kind == 'voc' else _yolo_reader()
    except ImportError as error:
        raise UserError(
            f"{root}: Pascal VOC's and YOLO's layouts are read by supervision, which is not here "
            f'({error}): pip install "ghost-det[data]"'
        ) from None
    names = list(layout.classes or [])
    contents = {}
    for split, pairs in layout.splits.items():
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        faults: list[str] = []
        objects = []
        for path, label in pairs:
            file = os.path.relpath(path, root)
            try:
                width, height = _size(path)
                found = read(label, (width, height)) if label.is_file() or layout.listed else []
            # supervision and the parsers of XML say ValueError or SyntaxError, Pillow says OSError.
            except (OSError, ValueError, SyntaxError, LookupError, OverflowError) as error:
                faults.append(f'{os.path.relpath(label, root)} of {file}: {type(error).__name__}: {error}')
                continue
            images.append({'id': len(images) + 1, 'file_name': file, 'width': width, 'height': height})
            objects += [(len(images), *each) for each in found]
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
            'info': {'description': f'converted from {root}', 'faults': faults},
            'images': images,
            'annotations': boxes,
            'categories': [{'id': number, 'name': name} for number, name in enumerate(names, first)],
        }
    return contents


def _size(path: Path) -> tuple[int, int]:
    """Return width and height as mmcv loads the image, from its header alone."""
    from PIL import Image

    from .opened import loaded_size

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # such are named later
            with Image.open(path) as image:
                return loaded_size(image)
    except Image.DecompressionBombError as error:
        raise ValueError(error) from None


Reader = Callable[[Path, tuple[int, int]], list[tuple[Any, list[float], int]]]


def _voc_reader() -> Reader:
    # The whole-folder functions of supervision decode each image in full and stop at the first fault, so it
    # is asked file by file; its XML parser is defusedxml, which refuses entity bombs and external entities.
    from defusedxml.ElementTree import parse
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    def read(label: Path, size: tuple[int, int]) -> list[tuple[Any, list[float], int]]:
        _check_length(label)
        tree = parse(label)
        objects = tree.getroot().findall('object')
        for each in objects:
            for polygon in each.findall('polygon'):
                each.remove(polygon)  # or a mask of the whole image is made for each object
        found, names = detections_from_xml_obj(tree.getroot(), [], (1, 1))
        # Boxes of VOC count pixels from 1, the last one included: supervision subtracts 1 from the first
        # corner, which is right for both.
        hard = [int((each.findtext('difficult') or '0').strip() == '1') for each in objects]
        return [
            (names[index], box, crowd)
            for index, box, crowd in zip(_list(found.class_id), found.xyxy.tolist(), hard)
        ]

    return read


def _yolo_reader() -> Reader:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    def read(label: Path, size: tuple[int, int]) -> list[tuple[Any, list[float], int]]:
        _check_length(label)
        lines = [line for line in label.read_text(encoding='utf-8').splitlines() if line.strip()]
        # Relative first: supervision multiplies in float32.
        found = yolo_annotations_to_detections(lines, (1, 1), with_masks=False)
        if not lines:
            return []
        width, height = size
        return [
            (index, [x1 * width, y1 * height, x2 * width, y2 * height], 0)
            for index, (x1, y1, x2, y2) in zip(_list(found.class_id), found.xyxy.tolist())
        ]

    return read


def _list(array: Any) -> list[int]:
    return [] if array is None else [int(value) for value in array]


def _check_length(label: Path) -> None:
    if label.stat().st_size > MAX_LABEL_BYTES:
        raise ValueError('over 16 MiB, which no file of labels is')

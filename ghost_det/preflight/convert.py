"""Pascal VOC and YOLO layouts, read through supervision and kept as COCO json in a cache of ours."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..images import visible
from ..sample import cache_root

VERSION = 2  # part of the cache folder's name: raise it with any change to what is written
SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation', 'test')}
WORDS = tuple(chain(*SPLITS.values()))
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
        orphans: of each split, label files without image.
        note: where val comes from, if it is none of the data set's own.
        share: of val, if it was made of train.
    """

    kind: str
    splits: dict[str, list[Pair]]
    classes: list[str] | None = None
    listed: bool = False
    orphans: dict[str, list[Path]] = field(default_factory=dict)
    note: str = ''
    share: float | None = None


def find_layout(root: Path) -> Layout | None:
    """Recognise Pascal VOC's or YOLO's layout, or return ``None``.

    Raises:
        UserError: a YOLO ``data.yaml`` that does not lead to images.
    """
    if root.is_file():
        return _yolo(root.parent, root)
    for yaml in sorted(root.glob('*.y*ml')):
        layout = _yolo(root, yaml)
        if layout:
            return layout
    return _voc(root) or _yolo_plain(root)


def _voc(root: Path) -> Layout | None:
    for base in (root, *sorted(root.glob('VOC*')), *sorted(root.glob('VOCdevkit/VOC*'))):
        layout = _voc_lists(base)
        if layout:
            return layout
    found = {word: _voc_pairs(root / word) for word in WORDS}
    parts = {word: ([*pairs.values()], lost) for word, (pairs, lost) in found.items() if pairs}
    if not parts:
        pairs, lost = _voc_pairs(root)
        parts = {word: (each, []) for word, each in _by_folder(pairs).items()}
        parts.get('train', ([], []))[1].extend(lost)
    splits, note = _chosen(root, {word: pairs for word, (pairs, _) in parts.items()})
    orphans = {
        name: lost for name, words in SPLITS.items() for word, (_, lost) in parts.items() if word in words
    }
    return Layout('voc', splits, orphans=orphans, note=note) if splits else None


def _yolo_plain(root: Path) -> Layout | None:
    """Return the layout of YOLO labels without a yaml, as LabelImg and Label Studio write them."""
    places = [
        root / each / name for each in ('', 'labels', 'images') for name in ('classes.txt', 'obj.names')
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None
    _check_length(file)
    lines = file.read_text(encoding='utf-8-sig', errors='replace').splitlines()
    images = root / 'images' if (root / 'images').is_dir() else root
    labels = root / 'labels' if (root / 'labels').is_dir() else images
    files = {path.relative_to(images).as_posix(): path for path in _images(images, '**/*')}
    pairs = {key: (path, (labels / key).with_suffix('.txt')) for key, path in files.items()}
    if not any(label.is_file() for _, label in pairs.values()):
        return None
    splits, note = _chosen(root, _by_folder(pairs))
    return Layout('yolo', splits, [line.strip() for line in lines if line.strip()], note=note)


def _by_folder(pairs: dict[str, Pair]) -> dict[str, list[Pair]]:
    """Sort files into splits where the first folder of each is named as one; else all are of train."""
    named = {key.partition('/')[0] for key in pairs} <= {*WORDS}
    parts: dict[str, list[Pair]] = {}
    for key, pair in pairs.items():
        parts.setdefault(key.partition('/')[0] if named else 'train', []).append(pair)
    return parts


def _chosen(root: Path, parts: dict[str, list[Pair]]) -> tuple[dict[str, list[Pair]], str]:
    """Return train, and as val the likeliest of the others; with a note where that is test."""
    val = next((word for word in SPLITS['val'] if parts.get(word)), '')
    splits = {name: parts[word] for name, word in (('train', 'train'), ('val', val)) if parts.get(word)}
    why = 'val is empty' if {*SPLITS['val'][:-1]} & parts.keys() else 'there is no val'
    return splits, f'{root}: {why}: test is taken as val' if val == 'test' else ''


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
    splits, note = _chosen(lists, parts)
    if 'train' not in splits and parts.get('trainval'):
        val = set(splits.get('val', ()))
        splits['train'] = [each for each in parts['trainval'] if each not in val]
        note = f'{note or lists}{", and" if note else ":"} trainval.txt is taken as train'
    return Layout('voc', splits, listed=True, note=note) if splits else None


VOC_IMAGES = ('jpegimages', 'images', 'image', 'imgs', 'img')
VOC_LABELS = ('annotations', 'annotation', 'annots', 'xmls', 'xml', 'labels')
Files = tuple[Path, list[Path]]


def _voc_folders(base: Path) -> tuple[Files, Files] | None:
    """Return the folders of images and of xml files, each with its files; ``None`` where there is no xml."""
    if not base.is_dir():
        return None
    inside = {path.name.lower(): path for path in sorted(base.glob('*')) if path.is_dir()}
    for word in VOC_LABELS:
        labels = visible(inside[word], '**/*.xml') if word in inside else []
        if labels:
            at = next((inside[each] for each in VOC_IMAGES if each in inside), base)
            return (at, _images(at, '**/*')), (inside[word], labels)
    labels = [path for pattern in ('*.xml', '*/*.xml') for path in visible(base, pattern)]
    images = [path for pattern in ('*', '*/*') if labels for path in _images(base, pattern)]
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
    """Return files by their path in a folder and by their name, both with and without suffix.

    Of a name that several have, it is ``None``.
    """
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
        _check_length(label)
        return (_parse_xml(label).findtext('filename') or '').strip().replace('\\', '/').rpartition('/')[2]
    except (OSError, ValueError, SyntaxError):  # to be reported when its boxes are read
        return ''


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


def _images(folder: Path, pattern: str = '*') -> list[Path]:
    return [path for path in visible(folder, pattern) if path.suffix.lower() in SUFFIXES]


def converted(root: Path, layout: Layout | None = None) -> dict[str, Path]:
    """Return COCO annotations of each split of a VOC or YOLO data set; empty for another layout.

    They are made once and kept in the user's cache (see `make_sample`), never in the data's own folder, and
    anew when any file of the data set was changed, added or removed. Processes may call this at the same
    time. File names start from ``root``, or the folder of the yaml that it is.

    Args:
        root: folder of the data set, or the ``data.yaml`` to use.
        layout: of `find_layout`, which is called otherwise.

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
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f'.{done.name}-', dir=cache) as scratch:
                built = Path(scratch) / 'set'
                built.mkdir()
                for name, content in make().items():
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
    return done


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
        read = _read_voc if layout.kind == 'voc' else _yolo_reader()
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
    if layout.share is not None:  # which classes a part has is chance
        for content in contents.values():
            content['categories'] = contents['val']['categories']
    return contents


def _size(path: Path) -> tuple[int, int]:
    """Return width and height as mmcv loads the image, from its header alone."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # such are named later
            with Image.open(path) as image:
                width, height = image.size
                return (height, width) if image.getexif().get(0x0112, 1) in range(5, 9) else (width, height)
    except Image.DecompressionBombError as error:
        raise ValueError(error) from None


Reader = Callable[[Path, tuple[int, int]], list[tuple[Any, list[float], int]]]


def _read_voc(label: Path, size: tuple[int, int]) -> list[Any]:
    _check_length(label)
    annotation = _parse_xml(label)
    if annotation.tag.lower() != 'annotation':
        raise ValueError(f"not Pascal VOC's: expected <annotation>, got <{annotation.tag}>")
    found = []
    for each in annotation.findall('object'):
        name, box = _text(each, 'name'), each.find('bndbox')
        if box is None:
            raise ValueError(f'Missing bndbox of {name!r}')
        x1, y1, x2, y2 = (_coordinate(box, tag) for tag in ('xmin', 'ymin', 'xmax', 'ymax'))
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
        # Pixels count from 1 and the last is included: of the box's corners, only the first moves.
        hard = int((each.findtext('difficult') or '').strip() == '1')
        found.append((name, [x1 - 1, y1 - 1, x2, y2], hard))
    return found


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

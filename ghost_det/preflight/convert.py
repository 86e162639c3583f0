"""Pascal VOC and YOLO layouts, kept as COCO json in a cache of ours."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import decode
from ..images import visible, walk
from ..sample import cache_root
from .table import Floats, as_number

VERSION = 4  # part of the cache folder's name: raise it with any change to what is written
SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation', 'test')}
WORDS = tuple(chain(*SPLITS.values()))
SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}
EMPTY = (None, '', '~', 'null')  # what yaml has for nothing
MAX_LABEL_BYTES = 2**24
MAX_CLASSES = 100_000
SLACK = 0.01  # of the image's side, for what rounding leaves outside of it
SAMPLED = 500  # label files that are looked at to tell polygons from keypoints
MOST = 0.9  # of such rows decide
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
        keypoints: of YOLO, ``kpt_shape``: how many each object has, and numbers each; ``(0, 0)`` for none,
            ``None`` where the yaml does not say.
    """

    kind: str
    splits: dict[str, list[Pair]]
    classes: list[str] | None = None
    listed: bool = False
    orphans: dict[str, list[Path]] = field(default_factory=dict)
    note: str = ''
    share: float | None = None
    keypoints: tuple[int, int] | None = None


def find_layout(root: Path) -> Layout | None:
    """Recognise Pascal VOC's or YOLO's layout, or return ``None``.

    Args:
        root: folder of the data set, or the ``data.yaml`` to use.

    Raises:
        UserError: a YOLO ``data.yaml`` that does not lead to images.
    """
    if root.is_file():
        layout = _yolo(root)
        if layout is None:
            raise UserError(f'{root}: expected a YOLO data.yaml with "names" and "train"')
        return layout
    failed = []
    for yaml in sorted(visible(root, '*.y*ml'), key=lambda path: path.stem != 'data'):
        try:
            layout = _yolo(yaml)
        except UserError as error:
            if yaml.stem == 'data':
                raise
            failed.append(error)  # another file need not belong to the data set
            continue
        if layout:
            return layout
    layout = _voc(root) or _yolo_plain(root)
    if layout is None and failed:
        raise failed[0]
    return layout


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


def _yolo(yaml: Path) -> Layout | None:
    content = _read_yaml(yaml)
    if not isinstance(content, dict) or not {'names', 'train'} <= content.keys():
        return None
    names = content['names']
    if isinstance(names, dict) and all(str(key).isdecimal() and int(key) < MAX_CLASSES for key in names):
        named = {int(key): name for key, name in names.items()}
        names = [named.get(number, f'class {number}') for number in range(max(named, default=-1) + 1)]
    # What is there is not shown: by aliases, a small file can have a value that fills the memory as text.
    if not isinstance(names, list) or any(isinstance(name, list | dict) for name in names):
        raise UserError(
            f'{yaml}: names: a list of class names is wanted, or a mapping of numbers '
            f'from 0 to below {MAX_CLASSES:,} to names'
        )
    keypoints = _keypoints(yaml, content['kpt_shape']) if 'kpt_shape' in content else None
    splits: dict[str, list[Pair]] = {}
    folders: dict[str, list[Path]] = {}
    note = ''
    for name, words in SPLITS.items():
        for word in (word for word in words if content.get(word) not in EMPTY and not splits.get(name)):
            images: list[Path] = []
            folders[name] = []
            given = content[word]
            for place in given if isinstance(given, list) else [given]:
                found = _yolo_place(yaml.parent, content.get('path', ''), place)
                if found is None:
                    said = repr(place) if isinstance(place, str) else f'a {type(place).__name__}'
                    raise UserError(
                        f'{yaml}: {name} is {said}: no such folder of images, or .txt list of them'
                    )
                if found.is_dir():
                    images += _images(found, '**/*')
                    folders[name].append(found)
                else:
                    images += _listed(yaml, found)
            if images and word == 'test':
                note = (
                    f'{yaml}: {"val is empty" if name in splits else "there is no val"}: test is taken as val'
                )
            splits[name] = [(path, _label(path)) for path in dict.fromkeys(images)]
    orphans: dict[str, list[Path]] = {}
    known = {str(label) for pairs in splits.values() for _, label in pairs}
    for name, pairs in splits.items():
        orphans[name] = list(_orphans(folders[name], {os.path.dirname(label) for _, label in pairs}, known))
        known.update(map(str, orphans[name]))
    return Layout(
        'yolo', splits, [str(name) for name in names], orphans=orphans, note=note, keypoints=keypoints
    )


def _read_yaml(yaml: Path) -> Any:
    """Read a yaml file, whose scalars stay texts: ``no``, ``007`` and ``12:30`` are names of classes.

    Raises:
        UserError: it cannot be read.
    """
    import yaml as pyyaml

    class Loader(pyyaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}

    try:
        if not yaml.is_file():  # a pipe would be waited for
            return None
        return pyyaml.load(_read(yaml), Loader)
    except (OSError, ValueError, RecursionError, pyyaml.YAMLError) as error:
        raise UserError(f'{yaml}: cannot be read: {error}') from None


def _keypoints(yaml: Path, shape: Any) -> tuple[int, int]:
    numbers = shape if isinstance(shape, list) else []
    if len(numbers) != 2 or not all(str(n).isdecimal() and int(n) < MAX_CLASSES for n in numbers):
        raise UserError(f'{yaml}: kpt_shape: expected two numbers, as [17, 3], or [0, 0] for polygons')
    return int(numbers[0]), int(numbers[1])


def _yolo_place(root: Path, path: Any, place: Any) -> Path | None:
    """Return the folder or list that ``train:`` names; Roboflow's say ``../train/images`` for their own."""
    if not isinstance(place, str) or not isinstance(path, str):
        return None
    inside = place.removeprefix('../')
    parts = PureWindowsPath(place).parts  # of another machine's path, only the end is here
    ends = [root.joinpath(*parts[n:]) for n in range(1, len(parts)) if {*parts[n:]} & {*WORDS}]
    for found in (root / ('' if path in EMPTY else path) / place, root / place, root / inside, *ends):
        if found.is_dir() or found.suffix.lower() == '.txt' and found.is_file():
            return Path(os.path.normpath(found))
    return None


def _listed(yaml: Path, file: Path) -> Iterator[Path]:
    """Yield the images of a list, whose paths start from its own folder, else from that of the yaml."""
    try:
        lines = _read(file).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f'{file}: cannot be read: {error}') from None
    for line in filter(None, map(str.strip, lines)):
        places = [Path(os.path.normpath(folder / line)) for folder in (file.parent, yaml.parent)]
        yield next((place for place in places if place.is_file()), places[0])


def _label(image: Path) -> Path:
    """Return the label file of an image: as ultralytics has it, else next to the image."""
    stem = os.path.splitext(image)[0]
    label, near = f'{_replaced(stem, "images", "labels")}.txt', f'{stem}.txt'
    return Path(near if label != near and not os.path.isfile(label) and os.path.isfile(near) else label)


def _replaced(path: str, old: str, new: str) -> str:
    """Return a path with another name for its last folder of a name, where there is one."""
    head, word, tail = path.rpartition(f'{os.sep}{old}{os.sep}')
    return f'{head}{os.sep}{new}{os.sep}{tail}' if word else path


def _orphans(images: Iterable[Path], labels: set[str], known: set[str]) -> Iterator[Path]:
    """Yield label files without an image.

    Args:
        images: folders of images, whose labels are looked for to any depth.
        labels: folders of labels.
        known: label files with an image.
    """
    roots = {os.path.dirname(_replaced(f'{folder}/x', 'images', 'labels')) for folder in images}
    files = {file for root in roots if os.path.isdir(root) for file in walk(root)}
    files |= {
        str(file)
        for folder in labels - set(map(os.path.dirname, files))
        for file in visible(Path(folder), '*')
    }
    stems: dict[str, set[str]] = {}
    for file in sorted(files - known):
        if not file.endswith('.txt'):
            continue
        places = {os.path.dirname(path) for path in (file, _replaced(file, 'labels', 'images'))}
        for place in places - stems.keys():
            stems[place] = {image.stem for image in _images(Path(place))}
        path = Path(file)
        if not any(path.stem in stems[place] for place in places) and _has_rows(path):
            yield path


def _has_rows(file: Path) -> bool:
    """Tell whether a text is one of labels, and not of classes or anything else."""
    try:
        return len([float(word) for word in _read(file).strip().partition('\n')[0].split()]) > 4
    except (OSError, ValueError):
        return False


def _first_file(folder: Path, pattern: str) -> Path | None:
    words = SPLITS[pattern.removesuffix('.txt')]
    return next((folder / f'{word}.txt' for word in words if (folder / f'{word}.txt').is_file()), None)


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
    yield f'{layout.kind} {layout.classes} {layout.keypoints} {layout.orphans}\n'
    for name, pairs in layout.splits.items():
        for path in (path for pair in pairs for path in pair):
            try:
                found = path.stat()
                yield f'{name} {path} {found.st_size} {found.st_mtime_ns}\n'
            except OSError:
                yield f'{name} {path} none\n'


def _convert(root: Path, layout: Layout) -> dict[str, dict[str, Any]]:
    read: Reader = _read_voc if layout.kind == 'voc' else _yolo_reader(root, layout)
    names = list(layout.classes or [])
    contents = {}
    for split, pairs in layout.splits.items():
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        said: dict[str, Any] = defaultdict(list, description=f'converted from {root}')
        objects = []
        said['labels without image'] = [os.path.relpath(p, root) for p in layout.orphans.get(split, [])]
        for path, label in pairs:
            file = os.path.relpath(path, root)
            place = f'{os.path.relpath(label, root)} of {file}'
            if not path.is_file():
                said['missing images'].append(file)
                continue
            labelled = label.is_file() or layout.listed
            said['images without label'] += [] if labelled else [file]
            try:
                (width, height), tag = _size(path)
                found, remarks = read(label, (width, height), tag) if labelled else ([], [])
            # The parsers of XML raise ValueError or SyntaxError, Pillow raises OSError.
            except (OSError, ValueError, SyntaxError, LookupError, OverflowError) as error:
                said['faults'].append(f'{place}: {type(error).__name__}: {error}')
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

    from .opened import header

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # such are named later
            with Image.open(path) as image:
                facts = header(image)
                return facts['loaded'], facts['orientation'] if facts['turned'] else 1
    except Image.DecompressionBombError as error:
        raise ValueError(error) from None


Read = tuple[list[tuple[Any, list[float], int]], list[tuple[str, str]]]
"""Class, corners and crowd of each object; and what is wrong, with its key of `annotations.CONVERTED`."""
Reader = Callable[[Path, tuple[int, int], int], Read]
"""Of a label file, and the size and the orientation that its image is loaded with."""


def _read_voc(label: Path, size: tuple[int, int], tag: int) -> Read:
    _check_length(label)
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
        return found, [('wrong sizes', there)]
    return [(name, _turned(box, size, tag), hard) for name, box, hard in found], [('turned', there)]


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


def _yolo_reader(root: Path, layout: Layout) -> Reader:
    classes = len(layout.classes or [])
    if layout.keypoints is None:
        _refuse_keypoints(root, layout)
    count, numbers = layout.keypoints or (0, 0)

    def read(label: Path, size: tuple[int, int], tag: int) -> Read:
        found: list[Any] = []
        wrong = []
        for number, line in enumerate(_read(label).splitlines(), 1):
            try:
                if line.strip():
                    index, corners = _yolo_box(line.split(), classes, count * numbers)
                    found.append((index, [corner * side for corner, side in zip(corners, size * 2)], 0))
            except ValueError as error:
                wrong.append(('faults', f'line {number}: {error}'))
        return found, wrong

    return read


def _yolo_box(words: list[str], classes: int, keypoints: int) -> tuple[int, list[float]]:
    """Return the class of a row, and the corners x1, y1, x2, y2 of its box as shares of the image's sides.

    Args:
        words: of the row.
        classes: how many there are.
        keypoints: how many numbers of keypoints follow a box.

    Raises:
        ValueError: it is no row of a box, a box with keypoints, or a polygon.
    """
    try:
        name, *row = map(float, words)
    except ValueError:
        raise ValueError(f'expected numbers, got {" ".join(words)[:60]!r}') from None
    if not name.is_integer() or not 0 <= name < classes:
        raise ValueError(f'class {words[0]}, but "names" has {classes}, counted from 0')
    box = bool(keypoints) or len(row) < 6
    # A fifth number is the confidence of a detector's own labels.
    if len(row) not in (4, 5, 4 + keypoints) if box else len(row) % 2:
        expected = f'4, or {4 + keypoints} by kpt_shape' if keypoints else '4 of a box, or pairs of a polygon'
        raise ValueError(f'{len(row)} numbers after the class: expected {expected}')
    row = row[:4] if box else row
    for place, value in enumerate(row):
        if not (0 if box and place > 1 else -SLACK) <= value <= 1 + SLACK:
            raise ValueError(f"{value:g}: expected shares of the image's width and height, from 0 to 1")
    if box:
        x, y, width, height = row
        return int(name), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return int(name), [min(row[::2]), min(row[1::2]), max(row[::2]), max(row[1::2])]


def _refuse_keypoints(root: Path, layout: Layout) -> None:
    """Refuse rows that may be polygons by their number, but by what they say are boxes with keypoints.

    Rows with keypoints all have the same length, and the keypoints lie in the box; read as polygons, they
    cross themselves.

    Raises:
        UserError: most rows are so.
    """
    labels = [label for pairs in layout.splits.values() for _, label in pairs if label.is_file()]
    rows: list[list[float]] = []
    for label in labels[:: len(labels) // SAMPLED + 1]:
        with contextlib.suppress(OSError, ValueError):  # reported when it is converted
            rows += [[float(word) for word in line.split()[1:]] for line in _read(label).splitlines()]
    rows = [row for row in rows if len(row) > 5 and np.isfinite(row).all()]
    for length, count in Counter(map(len, rows)).most_common(1):
        same = np.array([row for row in rows if len(row) == length])
        # Any three points are a triangle, so these say nothing.
        polygons = length > 6 and length % 2 == 0 and np.mean([_is_polygon(row) for row in same]) > MOST
        for numbers in (3, 2) if count >= MOST * len(rows) else ():
            keypoints, rest = divmod(length - 4, numbers)
            if not rest and _are_keypoints(same, numbers, bool(polygons)):
                raise UserError(
                    f'{root}: the labels have {length} numbers after the class, which look like a box and '
                    f'{keypoints} keypoints, not like a polygon; say which in the yaml: '
                    f'"kpt_shape: [{keypoints}, {numbers}]", or "kpt_shape: [0, 0]" for polygons'
                )


def _is_polygon(row: Floats) -> bool:
    """Tell whether x1 y1 x2 y2 ... lie in the image, and the sides touch no others but their neighbours."""
    points = row.reshape(-1, 2)
    start = points[(points != np.roll(points, 1, 0)).any(1)]
    span = np.ptp(start, 0) if len(start) > 2 else np.zeros(2)
    if not (span > 0).all() or row.min() < -SLACK or row.max() > 1 + SLACK:
        return False
    start = (start - start.min(0)) / span
    end = np.roll(start, -1, 0)
    low, high = np.minimum(start, end), np.maximum(start, end)
    near = np.all(low[:, None] <= high + 1e-9, axis=2)
    (across, down), (x, y) = (end - start).T[..., None], (start - start[:, None]).transpose(2, 0, 1)
    turn = across * y - down * x  # of the start of side j, seen from side i
    touching = near & near.T & (turn * np.roll(turn, -1, 1) <= 1e-9)
    order = np.arange(len(start))
    distance = abs(order[:, None] - order)
    apart = (distance > 1) & (distance < len(start) - 1)
    return not (touching & touching.T & apart).any()


def _are_keypoints(rows: Floats, numbers: int, polygons: bool) -> bool:
    """Tell whether rows are boxes in the image, most with most of their labelled keypoints in them.

    Args:
        rows: (n, 4 + keypoints x numbers).
        numbers: of each keypoint.
        polygons: they may be polygons as well; then the keypoints must span the boxes, as the first corner
            of a polygon is seldom the center of the others.
    """
    centers, sizes = rows[:, None, :2], rows[:, None, 2:4]
    points = rows[:, 4:].reshape(len(rows), -1, numbers)[..., :2]
    labelled = np.asarray((points > 0).any(2))
    near = (np.abs(points - centers) <= 0.55 * sizes).all(2) & labelled
    fit = ((sizes > 0) & (np.abs(centers - 0.5) + sizes / 2 <= 0.5 + SLACK)).all((1, 2))
    fit &= near.sum(1) >= 0.75 * labelled.sum(1)
    if fit.mean() < MOST or not polygons:
        return bool(fit.mean() >= MOST)
    spans = np.ptp(np.where(labelled[..., None], points, centers)[fit], axis=1) / rows[fit, 2:4]
    return bool(np.median(spans.min(1)) >= 0.6)


def _list(array: Any) -> list[int]:
    return [] if array is None else [int(value) for value in array]


def _read(file: Path) -> str:
    _check_length(file)
    return decode(file.read_bytes())


def _check_length(label: Path) -> None:
    if label.stat().st_size > MAX_LABEL_BYTES:
        raise ValueError('over 16 MiB, which no file of labels is')

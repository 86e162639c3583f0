"""YOLO data sets."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from ghost_det.errors import UserError
from ghost_det.utils.files import decode
from ghost_det.utils.images import images_in, visible

from .convert import WORDS, Layout, Pair, Read, choose_splits, read_list

EMPTY = (None, '', '~', 'null')  # what yaml has for nothing
SLACK = 0.01  # of the image's side, for what rounding leaves outside of it
SAMPLED = 500  # label files that are searched for keypoints


def find_yolo(file: Path) -> Layout | None:
    """Return the layout that a ``data.yaml`` describes, ``None`` if it is another yaml file."""
    try:
        # Scalars stay texts: ``no``, ``007`` and ``12:30`` are names of classes.
        content = yaml.load(_read(file), yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if file.stem != 'data':  # other files need not belong to the data set
            return None
        raise UserError(f'{file}: cannot be read: {error}') from None
    if not isinstance(content, dict) or not {'names', 'train'} <= content.keys():
        return None
    return _layout(file, content)


def find_yolo_plain(root: Path) -> Layout | None:
    """Return the layout of YOLO labels without a yaml, as LabelImg and Label Studio write them."""
    places = [root / folder / 'classes.txt' for folder in ('', 'labels', 'images')]
    file = next(filter(Path.is_file, places), None)
    if file is None:
        return None
    base = root / 'images' if (root / 'images').is_dir() else root
    folders = {word: str(base / word) for word in WORDS if (base / word).is_dir()} or {'train': str(base)}
    return _layout(file, {'names': read_list(file), **folders})


def _layout(file: Path, content: dict[str, Any]) -> Layout:
    """Return the layout that the content of a ``data.yaml`` describes."""
    names, shape = content['names'], content.get('kpt_shape', ['0', '0'])
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    numbers = _are_texts(shape) and all(map(str.isdecimal, shape))
    if not _are_texts(names) or not numbers or len(shape) != 2:
        raise UserError(
            f'{file}: expected "names" as a list, or a mapping of 0, 1, 2 and so on; '
            'and "kpt_shape", if any, as two numbers: [17, 3], or [0, 0] for polygons'
        )
    keypoints = int(shape[0]) * int(shape[1])
    parts: dict[str, list[Pair]] = {}
    for word in WORDS:
        if content.get(word) not in EMPTY:
            places = content[word] if isinstance(content[word], list) else [content[word]]
            found = [_find_place(file, word, content.get('path', ''), place) for place in places]
            images = dict.fromkeys(image for place in found for image in _images_of(file, place))
            parts[word] = [(image, _label(image)) for image in images]
    splits, note = choose_splits(file, parts)
    splits.setdefault('train', [])  # which is reported
    pairs = [pair for split in splits.values() for pair in split]
    if 'kpt_shape' not in content:
        _refuse_keypoints(file, pairs)
    read = partial(read_yolo, classes=len(names), keypoints=keypoints)
    return Layout(splits, read, names, orphans=_orphans(pairs), note=note, keypoints=keypoints)


def _read(file: Path) -> str:
    return decode(file.read_bytes())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _find_place(file: Path, word: str, path: Any, place: Any) -> Path:
    """Return the folder or list that ``train:`` names; of another machine's path, the end may be here."""
    if isinstance(place, str) and isinstance(path, str):
        parts = PureWindowsPath(place).parts
        ends = [Path(*parts[n:]) for n in range(1, len(parts)) if {*parts[n:]} & {*WORDS}]
        for found in (Path('' if path in EMPTY else path) / place, Path(place), *ends):
            here = Path(os.path.normpath(file.parent / found))
            if os.path.isdir(here) or (here.suffix.lower() == '.txt' and os.path.isfile(here)):
                return here
    shown = place if isinstance(place, str) else type(place).__name__
    raise UserError(f'{file}: {word}: expected a folder of images, or a .txt list of them, got {shown}')


def _images_of(file: Path, place: Path) -> list[Path]:
    """Return the images in a folder, or of a list, whose paths start from its own folder or the yaml's."""
    if place.is_dir():
        return images_in(place)
    images = []
    for line in read_list(place):
        paths = [Path(os.path.normpath(folder / line)) for folder in (place.parent, file.parent)]
        images.append(next((path for path in paths if os.path.isfile(path)), paths[0]))
    return images


def _label(image: Path) -> Path:
    """Return the label file of an image: with `labels` for its last folder `images`, else next to it."""
    near = os.path.splitext(image)[0] + '.txt'
    label = '/labels/'.join(near.rsplit('/images/', 1))
    return Path(label if os.path.isfile(label) or not os.path.isfile(near) else near)


def _orphans(pairs: list[Pair]) -> tuple[Path, ...]:
    """Return the label files next to those of the images that have no image, listed or not."""
    labels = {label for _, label in pairs}
    files = {file for folder in {label.parent for label in labels} for file in visible(folder, '*.txt')}
    folders = {image.parent for image, _ in pairs}
    stems = {file.stem for folder in folders for file in visible(folder, '*') if file.suffix != '.txt'}
    return tuple(sorted(file for file in files - labels if file.stem not in {'classes', *WORDS, *stems}))


def _refuse_keypoints(source: Path, pairs: list[Pair]) -> None:
    """Raise a `UserError` where rows may be polygons, or boxes with keypoints, which all have one length."""
    lengths = set()
    for _, label in pairs[:: len(pairs) // SAMPLED + 1]:
        with contextlib.suppress(OSError, ValueError):  # reported when it is converted
            lengths |= {len(row.split()) - 1 for row in _read(label).splitlines()}
    lengths = {length for length in lengths if length > 5}
    if len(lengths) == 1:
        raise UserError(
            f'{source}: the labels have {lengths.pop()} numbers after the class: a polygon, or a box with '
            'keypoints? Add to the data.yaml "kpt_shape: [0, 0]" for polygons, or "kpt_shape: [K, D]" for '
            'K keypoints of D numbers'
        )


def read_yolo(label: Path, size: tuple[int, int], tag: int, classes: int, keypoints: int) -> Read:
    """Read a label file, whose rows have as many numbers of ``keypoints`` behind the box; a `Reader`."""
    found: list[Any] = []
    wrong = []
    for number, line in enumerate(_read(label).splitlines(), 1):
        try:
            if line.strip():
                index, corners = _read_row(line.split(), classes, keypoints)
                found.append((index, [corner * side for corner, side in zip(corners, size * 2)], 0))
        except ValueError as error:
            wrong.append(('wrong label file', f'line {number}: {error}'))
    return found, wrong


def _read_row(words: list[str], classes: int, keypoints: int) -> tuple[int, list[float]]:
    """Return the class of a row, and the corners x1, y1, x2, y2 of its box as shares of the image's sides."""
    name, *row = map(float, words)
    if not name.is_integer() or not 0 <= name < classes:
        raise ValueError(f'class {words[0]}, but "names" has {classes}, counted from 0')
    is_box = bool(keypoints) or len(row) < 6
    # A fifth number is the confidence of a detector's own labels.
    if len(row) not in (4, 5, 4 + keypoints) if is_box else len(row) % 2:
        raise ValueError(f'{len(row)} numbers after the class match neither a box, a polygon nor kpt_shape')
    row = row[:4] if is_box else row
    if not all(-SLACK <= value <= 1 + SLACK for value in row):
        raise ValueError("expected shares of the image's width and height, from 0 to 1")
    if not is_box:
        return int(name), [min(row[::2]), min(row[1::2]), max(row[::2]), max(row[1::2])]
    x, y, width, height = row
    return int(name), [x - width / 2, y - height / 2, x + width / 2, y + height / 2]

"""YOLO data sets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.images import SUFFIXES, visible

from .convert import WORDS, Layout, Pair, Read, choose_splits, read_text

EMPTY = (None, '', '~', 'null')  # what yaml has for nothing
SLACK = 0.01  # of the image's side, for what rounding leaves outside of it
SAMPLED = 500  # label files that are searched for keypoints


def find_yolo(yaml: Path) -> Layout | None:
    """Return the layout that a ``data.yaml`` describes, ``None`` if it is another yaml file."""
    content = _read_yaml(yaml)
    if not isinstance(content, dict) or not {'names', 'train'} <= content.keys():
        return None
    names = content['names']
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'{yaml}: names: expected a list of class names, or a mapping of 0, 1, 2 and so on to names'
        )
    shape = content.get('kpt_shape')
    if shape is not None and not (
        isinstance(shape, list) and len(shape) == 2 and all(str(n).isdecimal() and len(n) < 5 for n in shape)
    ):
        raise UserError(f'{yaml}: kpt_shape: expected two numbers, as [17, 3], or [0, 0] for polygons')
    parts = {}
    for word in WORDS:
        if content.get(word) not in EMPTY:
            places = content[word] if isinstance(content[word], list) else [content[word]]
            found = [_find_place(yaml, word, content.get('path', ''), place) for place in places]
            parts[word] = [image for place in found for image in _images_of(yaml, place)]
    return _layout(yaml, parts, names, None if shape is None else int(shape[0]) * int(shape[1]))


def find_yolo_plain(root: Path) -> Layout | None:
    """Return the layout of YOLO labels without a yaml, as LabelImg and Label Studio write them."""
    places = [root / folder / 'classes.txt' for folder in ('', 'labels', 'images')]
    file = next(filter(Path.is_file, places), None)
    if file is None:
        return None
    base = root / 'images' if (root / 'images').is_dir() else root
    parts = {word: [*_images_of(root, base / word)] for word in WORDS if (base / word).is_dir()}
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    layout = _layout(root, parts or {'train': [*_images_of(root, base)]}, names, None)
    return layout if any(os.path.isfile(label) for _, label in layout.splits.get('train', [])) else None


def _layout(source: Path, images: dict[str, list[Path]], names: list[str], keypoints: int | None) -> Layout:
    """Return the layout of these images, with as many numbers of keypoints behind each box."""
    parts = {word: [(path, _label(path)) for path in dict.fromkeys(images[word])] for word in images}
    splits, note = choose_splits(source, parts)
    splits.setdefault('train', [])  # which is reported
    pairs = [pair for split in splits.values() for pair in split]
    if keypoints is None:
        _refuse_keypoints(source, pairs)
    read = partial(read_yolo, classes=len(names), keypoints=keypoints or 0)
    return Layout(splits, read, names, orphans=_orphans(pairs), note=note, keypoints=keypoints)


def _read_yaml(yaml: Path) -> Any:
    """Read a yaml file, whose scalars stay texts: ``no``, ``007`` and ``12:30`` are names of classes."""
    import yaml as pyyaml

    class Loader(pyyaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}

    try:
        return pyyaml.load(read_text(yaml), Loader)
    except (OSError, ValueError, RecursionError, pyyaml.YAMLError) as error:
        if yaml.stem != 'data':  # other files need not belong to the data set
            return None
        raise UserError(f'{yaml}: cannot be read: {error}') from None


def _find_place(yaml: Path, word: str, path: Any, place: Any) -> Path:
    """Return the folder or list that ``train:`` names; of another machine's path, the end may be here."""
    if isinstance(place, str) and isinstance(path, str):
        parts = PureWindowsPath(place).parts
        ends = [parts[n:] for n in range(1, len(parts)) if {*parts[n:]} & {*WORDS}]
        bases = (yaml.parent / ('' if path in EMPTY else path) / place, yaml.parent / place)
        for found in (*bases, *(yaml.parent.joinpath(*end) for end in ends)):
            if os.path.isdir(found) or (found.suffix.lower() == '.txt' and os.path.isfile(found)):
                return Path(os.path.normpath(found))
    shown = repr(place) if isinstance(place, str) else f'a {type(place).__name__}'
    raise UserError(f'{yaml}: {word} is {shown}: no such folder of images, or .txt list of them')


def _images_of(source: Path, place: Path) -> Iterator[Path]:
    """Yield the images in a folder, or of a list, whose paths start from its own folder or the yaml's."""
    if place.is_dir():
        yield from (path for path in visible(place, '**/*') if path.suffix.lower() in SUFFIXES)
        return
    try:
        lines = read_text(place).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f'{place}: cannot be read: {error}') from None
    for line in filter(None, map(str.strip, lines)):
        paths = [Path(os.path.normpath(folder / line)) for folder in (place.parent, source.parent)]
        yield next((path for path in paths if os.path.isfile(path)), paths[0])


def _label(image: Path) -> Path:
    """Return the label file of an image: with `labels` for its last folder `images`, else next to it."""
    stem = os.path.splitext(image)[0]
    head, images, tail = stem.rpartition(f'{os.sep}images{os.sep}')
    label = Path(f'{head}{os.sep}labels{os.sep}{tail}.txt' if images else f'{stem}.txt')
    near = Path(f'{stem}.txt')
    return near if not os.path.isfile(label) and os.path.isfile(near) else label


def _orphans(pairs: list[Pair]) -> tuple[Path, ...]:
    """Return the label files next to those of the images that have no image."""
    labels = {label for _, label in pairs}
    files = {file for folder in {label.parent for label in labels} for file in visible(folder, '*.txt')}
    folders = {image.parent for image, _ in pairs}
    images = {file.stem for folder in folders for file in visible(folder, '*') if file.suffix != '.txt'}
    return tuple(file for file in sorted(files - labels) if file.stem not in images and _has_rows(file))


def _has_rows(file: Path) -> bool:
    """Return whether a text file has labels, not names of classes or anything else."""
    try:
        return len([float(word) for word in read_text(file).strip().partition('\n')[0].split()]) > 4
    except (OSError, ValueError):
        return False


def _refuse_keypoints(source: Path, pairs: list[Pair]) -> None:
    """Raise a `UserError` where rows may be polygons, or boxes with keypoints, which all have one length."""
    labels = [label for _, label in pairs if os.path.isfile(label)]
    rows: list[str] = []
    for label in labels[:: len(labels) // SAMPLED + 1]:
        with contextlib.suppress(OSError, ValueError):  # reported when it is converted
            rows += read_text(label).splitlines()
    lengths = {len(row.split()) - 1 for row in rows if len(row.split()) > 6}
    if len(lengths) == 1:
        length = lengths.pop()
        shapes = [f'[{(length - 4) // n}, {n}]' for n in (3, 2) if (length - 4) % n == 0]
        raise UserError(
            f'{source}: the labels have {length} numbers after the class, which may be a polygon, or a box '
            f'with keypoints; add to the data.yaml "kpt_shape: [0, 0]" for polygons'
            + ''.join(f', or "kpt_shape: {shape}"' for shape in shapes)
        )


def read_yolo(label: Path, size: tuple[int, int], tag: int, classes: int, keypoints: int) -> Read:
    """Read a label file, whose rows have as many numbers of ``keypoints`` behind the box; a `Reader`."""
    found: list[Any] = []
    wrong = []
    for number, line in enumerate(read_text(label).splitlines(), 1):
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

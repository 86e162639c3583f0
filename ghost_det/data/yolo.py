"""YOLO data sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.images import visible, walk

from .keypoints import SLACK, refuse_keypoints
from .label_files import (
    SPLITS,
    WORDS,
    Layout,
    Pair,
    Read,
    Reader,
    by_folder,
    check_length,
    choose_splits,
    images_in,
    read_text,
)

EMPTY = (None, '', '~', 'null')  # what yaml has for nothing


def find_yolo(yaml: Path) -> Layout | None:
    """Return the layout that a ``data.yaml`` describes; ``None`` if it is another yaml file."""
    content = _read_yaml(yaml)
    if not isinstance(content, dict) or not {'names', 'train'} <= content.keys():
        return None
    names = _class_names(yaml, content['names'])
    keypoints = _keypoints(yaml, content['kpt_shape']) if 'kpt_shape' in content else None
    parts: dict[str, list[Pair]] = {}
    folders: dict[str, list[Path]] = {}
    for word in WORDS:
        if content.get(word) not in EMPTY and not any(parts.get(val) for val in SPLITS['val']):
            images, folders[word] = _images_of(yaml, content, word)
            parts[word] = [(path, _label(path)) for path in dict.fromkeys(images)]
    splits, note = choose_splits(yaml, parts)
    if 'train' in parts:
        splits['train'] = parts['train']  # also without images, which is reported
    orphans: dict[str, list[Path]] = {}
    known = {str(label) for pairs in splits.values() for _, label in pairs}
    for name, pairs in splits.items():
        named = next(folders[word] for word in folders if parts[word] is pairs)
        orphans[name] = list(_orphans(named, {os.path.dirname(label) for _, label in pairs}, known))
        known.update(map(str, orphans[name]))
    return Layout('yolo', splits, names, orphans=orphans, note=note, keypoints=keypoints)


def _class_names(yaml: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'{yaml}: names: expected a list of class names, or a mapping of 0, 1, 2 and so on to names'
        )
    return names


def _images_of(yaml: Path, content: dict[str, Any], word: str) -> tuple[list[Path], list[Path]]:
    """Return the images of a split, and the folders that it names."""
    images: list[Path] = []
    folders = []
    given = content[word]
    for place in given if isinstance(given, list) else [given]:
        found = _yolo_place(yaml.parent, content.get('path', ''), place)
        if found is None:
            shown = repr(place) if isinstance(place, str) else f'a {type(place).__name__}'
            raise UserError(f'{yaml}: {word} is {shown}: no such folder of images, or .txt list of them')
        if found.is_dir():
            images += images_in(found, '**/*')
            folders.append(found)
        else:
            images += _listed(yaml, found)
    return images, folders


def find_yolo_plain(root: Path) -> Layout | None:
    """Return the layout of YOLO labels without a yaml, as LabelImg and Label Studio write them."""
    places = [
        root / each / name for each in ('', 'labels', 'images') for name in ('classes.txt', 'obj.names')
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None
    check_length(file)
    lines = file.read_text(encoding='utf-8-sig', errors='replace').splitlines()
    images = root / 'images' if (root / 'images').is_dir() else root
    labels = root / 'labels' if (root / 'labels').is_dir() else images
    files = {path.relative_to(images).as_posix(): path for path in images_in(images, '**/*')}
    pairs = {key: (path, (labels / key).with_suffix('.txt')) for key, path in files.items()}
    if not any(os.path.isfile(label) for _, label in pairs.values()):
        return None
    splits, note = choose_splits(root, by_folder(pairs))
    return Layout('yolo', splits, [line.strip() for line in lines if line.strip()], note=note)


def _read_yaml(yaml: Path) -> Any:
    """Read a yaml file, whose scalars stay texts: ``no``, ``007`` and ``12:30`` are names of classes."""
    import yaml as pyyaml

    class Loader(pyyaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}

    try:
        if not yaml.is_file():  # a pipe would be waited for
            return None
        return pyyaml.load(read_text(yaml), Loader)
    except (OSError, ValueError, RecursionError, pyyaml.YAMLError) as error:
        raise UserError(f'{yaml}: cannot be read: {error}') from None


def _keypoints(yaml: Path, shape: Any) -> tuple[int, int]:
    numbers = shape if isinstance(shape, list) else []
    if len(numbers) != 2 or not all(isinstance(n, str) and n.isdecimal() and len(n) < 5 for n in numbers):
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
        if os.path.isdir(found) or found.suffix.lower() == '.txt' and os.path.isfile(found):
            return Path(os.path.normpath(found))
    return None


def _listed(yaml: Path, file: Path) -> Iterator[Path]:
    """Yield the images of a list, whose paths start from its own folder, else from that of the yaml."""
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f'{file}: cannot be read: {error}') from None
    for line in filter(None, map(str.strip, lines)):
        places = [Path(os.path.normpath(folder / line)) for folder in (file.parent, yaml.parent)]
        yield next((place for place in places if os.path.isfile(place)), places[0])


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
    """Yield label files that are not ``known``, and whose image is not there."""
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
            stems[place] = {image.stem for image in images_in(Path(place))}
        path = Path(file)
        if not any(path.stem in stems[place] for place in places) and _has_rows(path):
            yield path


def _has_rows(file: Path) -> bool:
    """Tell whether a text is one of labels, and not of classes or anything else."""
    try:
        return len([float(word) for word in read_text(file).strip().partition('\n')[0].split()]) > 4
    except (OSError, ValueError):
        return False


def yolo_reader(root: Path, layout: Layout) -> Reader:
    """Return the reader of a layout's label files."""
    classes = len(layout.classes or [])
    if layout.keypoints is None:
        refuse_keypoints(root, layout)
    count, numbers = layout.keypoints or (0, 0)

    def read(label: Path, size: tuple[int, int], tag: int) -> Read:
        found: list[Any] = []
        wrong = []
        for number, line in enumerate(read_text(label).splitlines(), 1):
            try:
                if line.strip():
                    index, corners = _yolo_box(line.split(), classes, count * numbers)
                    found.append((index, [corner * side for corner, side in zip(corners, size * 2)], 0))
            except ValueError as error:
                wrong.append(('wrong label file', f'line {number}: {error}'))
        return found, wrong

    return read


def _yolo_box(words: list[str], classes: int, keypoints: int) -> tuple[int, list[float]]:
    """Return the class of a row, and the corners x1, y1, x2, y2 of its box as shares of the image's sides."""
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

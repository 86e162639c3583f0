"""Finding the annotations and images of a data set."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PureWindowsPath

from ghost_det.errors import UserError
from ghost_det.utils.images import visible

from .annotations import FIXED, foreign, survey
from .convert import converted, find_layout
from .label_files import SPLITS
from .sample import SAMPLES, make_sample
from .split import VAL_SHARE, split_coco

IMAGES_PROBED = 200
FOLDERS_PROBED = 300
LAYOUTS = """\
  annotations/instances_train*.json + train*/, annotations/instances_val*.json + val*/  (COCO's own)
  train/_annotations.coco.json and valid/_annotations.coco.json next to the images      (Roboflow's)
  one json with boxes, in the folder or one below                                       (COCO; split)
  data.yaml with train: and val: folders of images, labels/ next to images/             (YOLO)
  JPEGImages/, Annotations/, ImageSets/Main/{train,val,trainval,test}.txt               (Pascal VOC)
  images/ + annotations/ of xml files, xml next to images; train/ and valid/ of these   (Pascal VOC)
  Without val, test is taken, or a part of train (--val-share).
  anything else: name the parts with --train-ann, --train-images, --val-ann, --val-images"""
Given = Mapping[str, tuple[Path | None, Path | None]]
"""Of splits: annotations and folder of images, where they are named one by one."""
Parts = dict[str, tuple[Path, Path | None]]
"""Of the splits that there are: annotations, and the folder of their images where it is known."""


@dataclass(frozen=True)
class Split:
    """One part of a data set: an annotation file and the folder that its file names start from."""

    annotations: Path
    images: Path


def data_root(folder: str | Path | None) -> Path | None:
    """Return the folder or ``data.yaml`` that ``--data`` names, generated first where it is ``'sample'``."""
    if folder in SAMPLES:
        folder = make_sample(one_shape=SAMPLES[str(folder)])
    root = None if folder is None else Path(folder).expanduser().absolute()
    if root is not None and not root.is_dir() and not (root.is_file() and root.suffix in ('.yaml', '.yml')):
        there = 'a file' if root.exists() else 'nothing'
        raise UserError(f"--data: {root}: expected a folder ('sample' generates one), got {there}")
    return root


def find_annotations(root: Path | None, given: Given, share: float | None = None) -> tuple[Parts, list[str]]:
    """Return the splits that there are, of VOC and YOLO converted, and lines that say how val was chosen."""
    parts: Parts = {}
    for name, (path, images) in given.items():
        if path is not None:
            parts[name] = (path.expanduser().absolute(), images)
            if not parts[name][0].is_file():
                raise UserError(f'{path}: no such annotation file (the {name} split); see --{name}-ann')
    notes: list[str] = []
    made = False
    if root is not None and len(parts) < len(given):
        own, notes, made = _of_folder(root, given, VAL_SHARE if share is None else share)
        parts = {name: (own[name][0], given[name][1] or own[name][1]) for name in own} | parts
    if share is not None and not made and 'val' in parts:
        raise UserError(f'--val-share {share:g}: there is a val already: {parts["val"][0]}; leave it out')
    return parts, notes


def locate(
    folder: str | Path | None, given: Given, share: float | None
) -> tuple[Path | None, Parts, list[str]]:
    """Return the root of a data set and what `find_annotations` does; raises where that is nothing."""
    root = data_root(folder)
    parts, notes = find_annotations(root, given, share)
    if not parts:
        raise no_annotations('train', root)
    return root, parts, notes


def _of_folder(root: Path, given: Given, share: float) -> tuple[Parts, list[str], bool]:
    """Return the splits of a folder, lines that say how val was chosen, and whether it was made of train."""
    found, notes = _named_files(root)
    layout = None if any(map(has_boxes, found.values())) else find_layout(root)
    if layout:
        source, base = root, root.parent if root.is_file() else root
        parts: Parts = {name: (file, base) for name, file in converted(root, layout).items()}
        notes = layout.note.splitlines()
        if 'train' not in parts or layout.splits.get('val'):
            return parts, notes, False
    else:
        parts = {name: (path, None) for name, path in found.items()}
        jsons = chain(visible(root, '*.json'), visible(root, '*/*.json'))
        lone = [path for path in jsons if has_boxes(path)]
        if 'val' in found or len(lone) != 1 or found.get('train', lone[0]) != lone[0]:
            return parts, notes, False
        source, notes, parts = lone[0], [], {'train': (lone[0], None)}
        try:
            table, findings = survey(source)
            base = find_images('train', root, source, given['train'][1] or given['val'][1], table.files)
        except UserError:  # reported when the file is read
            return parts, [], False
        if any(each.severity == 'error' and each.kind not in FIXED for each in findings):
            return parts, [], False
    made: dict[str, Path] = {}
    if given['val'][0] is None:
        made, note = split_coco(source, parts['train'][0], share)
        notes += [note] * bool(note)
    return {name: (path, base) for name, path in made.items()} or parts, notes, bool(made)


def _named_files(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the likeliest file of each split that is named after it, and a line where val is test."""
    found: dict[str, Path] = {}
    notes = []
    for name, words in SPLITS.items():
        files = {path: word for word in words for path in _annotation_files(root, word)}
        if files:
            first = next(iter(files))
            found[name] = next(filter(has_boxes, files), first)
            if files[found[name]] == 'test':
                why = 'there is no val' if files[first] == 'test' else f'{first} has no boxes'
                notes.append(f'{why}: {found[name]} is taken as val')
    return found, notes


def has_boxes(path: Path) -> bool:
    """Tell, without parsing it, whether a json file may be annotations with boxes, not captions, say."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b'"bbox"') >= 0 and content.find(b'"images"') >= 0
    except (OSError, ValueError):  # an empty file, too
        return False


def no_annotations(name: str, root: Path | None, known: Sequence[str] = ()) -> UserError:
    """Return what to raise where a data set lacks a split; if it has none, another folder may be meant."""
    if root is None:
        return UserError(
            f'--{name}-ann is missing: the {name} annotations are needed here, by it or by --data'
        )
    files = [path for suffix in ('json', 'xml') for f in _folders(root) for path in visible(f, f'*.{suffix}')]
    jsons = [str(path.relative_to(root)) for path in files if path.suffix == '.json']
    known_as = next(filter(None, map(foreign, (files[:5] + files[-5:]) if not known else ())), '')
    below = [folder for folder in islice(_folders(root), 1, None) if not known and _would_do(folder)]
    meant = [each for each in below if not any(other in each.parents for other in below)]
    meant = meant or [folder for folder in root.parents[:2] if not known and _would_do(folder)]
    hint = ''.join(f'\n  --data {folder}' for folder in meant[:5])
    return UserError(
        f'--data: {root}: found no {name} annotations among its json files '
        f'({", ".join(jsons[:10]) or "none"}){"".join(f", only {each}" for each in known)}{known_as}; '
        + (f'the data set may be another folder:{hint}\n' if hint else '')
        + f'layouts understood:\n{LAYOUTS}'
    )


def _would_do(folder: Path) -> bool:
    try:
        if any(map(has_boxes, _annotation_files(folder, 'train'))):
            return True
        layout = find_layout(folder)
    except (OSError, UserError):
        return False
    return layout is not None and 'train' in layout.splits


def _folders(root: Path, depth: int = 3) -> Iterator[Path]:
    """Yield a folder and those in it, the highest first, without hidden ones; not all of too many."""
    levels = (visible(root, '/'.join('*' * level)) if level else [root] for level in range(depth + 1))
    return islice(filter(Path.is_dir, chain.from_iterable(levels)), FOLDERS_PROBED)


def find_images(
    name: str, root: Path | None, annotations: Path, images: Path | None, files: Sequence[str]
) -> Path:
    """Return the folder that the file names of a split start from: ``images`` where that is given."""
    root = root.parent if root is not None and root.is_file() else root
    names = files[:IMAGES_PROBED]
    folders = (
        [images.expanduser().absolute()]
        if images is not None
        else list(_image_folders(annotations, root, SPLITS[name]))
    )
    present = {folder: sum(os.path.isfile(folder / file) for file in names) for folder in folders}
    best = max(folders, key=lambda folder: present[folder])
    if names and not present[best]:
        raise UserError(f'{annotations}: {misplaced(name, annotations, best, names, root)}')
    return best


def is_there(folder: Path, file: str, listing: dict[Path, set[str]]) -> bool:
    """Tell whether a file is in a folder, from a listing that is read once."""
    parent, _, name = file.rpartition('/')
    where = folder / parent
    if where not in listing:
        try:
            listing[where] = set(os.listdir(where))
        except (OSError, ValueError):  # of names that no file system has, too
            listing[where] = set()
    # Asked for once more where it is not listed: the names of some file systems do not care for case.
    return name in listing[where] or os.path.isfile(folder / file)


def misplaced(
    name: str, annotations: Path, images: Path, files: Sequence[str], root: Path | None = None
) -> str:
    """Say that images of a split are not in their folder, and where they are."""
    option = f'--{name}-images'
    below = (folder for base in (images, _base(annotations, root)) for folder in _folders(base, 2))
    folders = list(dict.fromkeys([*below, *images.parents[:2]]))
    right = next((f for f in folders if any(os.path.isfile(f / file) for file in files[:5])), None)
    hint = f'give their folder with {option}'
    if right is not None:
        hint = f'they are in {right}: {option} {right}'
    else:
        bare = {PureWindowsPath(file).name.lower(): file for file in files[:5]}  # with both kinds of slashes
        near = (path for f in folders for path in visible(f, '*') if path.name.lower() in bare)
        similar = next(filter(Path.is_file, near), None)
        if similar is not None:
            given = bare[similar.name.lower()]
            hint = (
                f'{given} may be {similar}: correct file_name (folders, letter case); it starts from {option}'
            )
    return f'{len(files)} of its first {len(files)} images are not in {images}, {files[0]} for one; {hint}'


def _annotation_files(root: Path, word: str) -> Iterator[Path]:
    """Yield annotation files of a split, likeliest first."""
    inside = _named(root, 'annotations')
    for folder in inside:
        yield from visible(folder, f'instances_{word}*.json')
    yield from visible(root / word, '_annotations.coco.json')
    for folder in (*inside, root, root / word):
        for path in visible(folder, '*.json'):
            if word in re.split('[^a-z]+', path.stem.lower()):
                yield path


def _base(annotations: Path, root: Path | None) -> Path:
    """Return the folder of a data set."""
    folder = annotations.parent
    return root or (folder.parent if folder.name.lower() == 'annotations' else folder)


def _image_folders(annotations: Path, root: Path | None, names: Sequence[str]) -> Iterator[Path]:
    """Yield the folders where the images of an annotation file may lie."""
    base = _base(annotations, root)
    stem = annotations.stem.removeprefix('instances_').removeprefix('person_keypoints_')
    yield base / stem
    yield base / 'images' / stem
    yield annotations.parent
    images = _named(base, 'images')
    for name in names:
        for folder in (base, *images):
            yield folder / name
            yield from sorted(p for p in folder.glob(f'{name}*') if p.is_dir())
    yield from images + _named(base, 'data') + _named(annotations.parent, 'images', 'data')  # FiftyOne's
    yield base


def _named(folder: Path, *words: str) -> list[Path]:
    """Return the folders in a folder that have a name, in letters of any case."""
    return [path for path in sorted(folder.glob('*')) if path.name.lower() in words and path.is_dir()]

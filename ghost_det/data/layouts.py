"""Finding the annotations and images of a data set."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from ghost_det.errors import UserError
from ghost_det.utils.images import visible, walk

from .annotations import survey
from .convert import SPLITS, Layout, converted, files_in
from .sample import SAMPLES, make_sample
from .split import VAL_SHARE, split_annotations
from .voc import find_voc
from .yolo import find_yolo, find_yolo_plain

IMAGES_PROBED = 200
LAYOUTS = """\
  annotations/instances_train*.json + train*/, annotations/instances_val*.json + val*/  (COCO's own)
  train/_annotations.coco.json and valid/_annotations.coco.json next to the images      (Roboflow's)
  one json with boxes                                                                   (COCO; split)
  data.yaml with train: and val: folders of images, labels/ next to images/             (YOLO)
  JPEGImages/, Annotations/, ImageSets/Main/{train,val,trainval,test}.txt               (Pascal VOC)
  images/ + annotations/ of xml files, xml next to images; train/ and valid/ of these   (Pascal VOC)
  Without val, test is used, or a part of train (--val-share).
  LabelMe, Label Studio's JSON, VIA, CreateML and CVAT's XML: export them as COCO or YOLO.
  anything else: name the parts with --train-ann, --train-images, --val-ann, --val-images"""
Given = Mapping[str, tuple[Path | None, Path | None]]
"""Annotations and folder of images of each split, if they are named one by one."""
Parts = dict[str, tuple[Path, Path | None]]
"""Annotations of each split that was found, and the folder of its images if it is known."""


@dataclass(frozen=True)
class Split:
    """One part of a data set: an annotation file and the folder that its file names start from."""

    annotations: Path
    images: Path


def locate(
    folder: str | Path | None, given: Given, share: float | None = None
) -> tuple[Path | None, Parts, list[str]]:
    """Return the root of a data set, its splits, and lines that say how val was chosen.

    ``folder`` is what ``--data`` names: a folder, a ``data.yaml``, or ``'sample'``, which is generated first.
    VOC and YOLO are converted. Raises a `UserError` if there is none.
    """
    if folder in SAMPLES:
        folder = make_sample(one_shape=SAMPLES[str(folder)])
    source = None if folder is None else Path(folder).expanduser().absolute()
    if source and not source.is_dir() and not (source.is_file() and source.suffix in ('.yaml', '.yml')):
        problem = 'expected a folder or a data.yaml' if source.exists() else 'no such folder'
        raise UserError(f"{source}: {problem} ('sample' generates a data set)")
    root = source.parent if source and source.is_file() else source
    named: Parts = {}
    for name, (path, images) in given.items():
        if path is not None:
            named[name] = (path.expanduser().absolute(), images)
            if not named[name][0].is_file():
                raise UserError(f'{path}: no such annotation file (the {name} split); see --{name}-ann')
    parts = named
    notes: list[str] = []
    if source and root and len(named) < len(given):
        found, notes, lone = _find_parts(source, root)
        if lone and not given['val'][0]:
            file, images = found['train'][0], found['train'][1] or given['train'][1] or given['val'][1]
            made = split_annotations(root, file, VAL_SHARE if share is None else share)
            if made is not None:
                images = find_images('train', root, file, images, survey(file).table.files)
                found, share = {name: (path, images) for name, path in made[0].items()}, None
                notes.append(made[1])
        parts = {name: (path, given[name][1] or images) for name, (path, images) in found.items()} | named
    if share is not None and 'val' in parts:
        raise UserError(f'there is a val split ({parts["val"][0]}); remove --val-share {share:g}')
    if not parts:
        raise no_annotations('train', root)
    return root, parts, notes


def _find_parts(source: Path, root: Path) -> tuple[Parts, list[str], bool]:
    """Return the splits, a line if val is test, and whether val has to be made of train."""
    boxed = {file: has_boxes(file) for file in files_in(root, ('.json',)) if source == root}
    layout = None if any(boxed.values()) else find_layout(source)
    if layout is not None:
        parts: Parts = {name: (file, root) for name, file in converted(source, root, layout).items()}
        return parts, layout.note.splitlines(), {*parts} == {'train'}
    files = sorted(boxed, key=lambda file: (not boxed[file], 'instances' not in file.name, len(file.parts)))
    words = {file: re.split('[^a-z]+', str(file.relative_to(root)).lower()) for file in files}
    found = {}
    for split, names in SPLITS.items():
        named = [file for name in names for file in files if name in words[file]]
        if named:
            found[split] = min(named, key=lambda file: not boxed[file])
    if sum(boxed.values()) == 1 and 'val' not in found:
        return {'train': (files[0], None)}, [], True
    val = found.get('val')
    is_test = val is not None and not {*words[val]} & {*SPLITS['val'][:-1]}
    notes = [f'there is no val split with boxes: {val} is used as val'] * is_test
    return {name: (file, None) for name, file in found.items()}, notes, False


def find_layout(source: Path) -> Layout | None:
    """Return the layout of a folder or ``data.yaml`` as Pascal VOC's or YOLO's, ``None`` if it is neither."""
    if source.is_file():
        layout = find_yolo(source)
        if layout is None:
            raise UserError(f'{source}: expected a YOLO data.yaml with "names" and "train"')
        return layout
    yamls = sorted(visible(source, '*.y*ml'), key=lambda path: path.stem != 'data')
    return next(filter(None, map(find_yolo, yamls)), None) or find_voc(source) or find_yolo_plain(source)


def has_boxes(path: Path) -> bool:
    """Return, without parsing it, whether a json file may have boxes, and not only captions."""
    try:
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b'"category_id"') >= 0 and content.find(b'"images"') >= 0
    except (OSError, ValueError):  # an empty file, too
        return False


def no_annotations(name: str, root: Path | None, known: Sequence[str] = ()) -> UserError:
    """Return the error for a data set without a split."""
    if root is None:
        return UserError(f'no {name} annotations: give --{name}-ann, or the folder of a data set')
    jsons = [str(path.relative_to(root)) for path in files_in(root, ('.json',))]
    return UserError(
        f'{root}: found no {name} annotations among its json files '
        f'({", ".join(jsons[:10]) or "none"}){"".join(f", only {each}" for each in known)}; '
        f'supported layouts:\n{LAYOUTS}'
    )


def find_images(
    name: str, root: Path | None, annotations: Path, images: Path | None, files: Sequence[str]
) -> Path:
    """Return the folder that the file names of a split start from; only ``images``, if given, is tried."""
    base = _base(annotations, root)
    folders = [images.expanduser().absolute()] if images is not None else [annotations.parent, base]
    if images is None:
        stem, start = annotations.stem.lower(), tuple(SPLITS[name])
        inside = [path for level in ('*', '*/*') for path in visible(base, level) if path.is_dir()]
        inside.sort(key=lambda path: not path.name.lower().startswith(start))
        for folder in inside:
            words = [word.lower() for word in folder.relative_to(base).parts]
            if all(word in ('images', 'data') or word in stem or word.startswith(start) for word in words):
                folders.append(folder)
    names = files[:IMAGES_PROBED]
    present = {folder: sum(os.path.isfile(folder / file) for file in names) for folder in folders}
    best = max(folders, key=lambda folder: present[folder])
    if names and not present[best]:
        raise UserError(f'{annotations}: {misplaced(name, annotations, best, names, root)}')
    return best


def is_there(folder: Path, file: str, listing: dict[Path, set[str]]) -> bool:
    """Return whether a file is in a folder, which is listed only once."""
    parent, _, name = file.rpartition('/')
    where = folder / parent
    if where not in listing:
        try:
            listing[where] = set(os.listdir(where))
        except (OSError, ValueError):  # a name may be too long, or have a null byte
            listing[where] = set()
    return name in listing[where] or os.path.isfile(folder / file)  # in other letter case, on some systems


def misplaced(
    name: str, annotations: Path, images: Path, files: Sequence[str], root: Path | None = None
) -> str:
    """Return the message that the images of a split are not in their folder, and where one may be."""
    first = PureWindowsPath(files[0]).name.lower()  # splits at both kinds of slashes
    paths = walk(_base(annotations, root))
    near = next((path for path in paths if os.path.basename(path).lower() == first), None)
    return (
        f'{files[0]}{f" and {len(files) - 1} others" * (len(files) > 1)} not found in {images}'
        + (f'; the first may be {near}' if near else '')
        + f'; name the folder with --{name}-images, or correct file_name (folders, letter case)'
    )


def _base(annotations: Path, root: Path | None) -> Path:
    """Return the folder of a data set."""
    folder = annotations.parent
    return root or (folder.parent if folder.name.lower() == 'annotations' else folder)

"""Finding the annotations and images of a data set."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.files import read_json
from ghost_det.utils.images import visible, walk

from .annotations import CONVERTED, FIXED, survey
from .convert import SPLITS, Layout, cached, converted, files_in
from .sample import SAMPLES, make_sample
from .voc import find_voc
from .yolo import find_yolo, find_yolo_plain

VAL_SHARE = 0.2
IMAGES_PROBED = 200
FILES_PROBED = 100_000
LAYOUTS = """\
  annotations/instances_train*.json + train*/, annotations/instances_val*.json + val*/  (COCO's own)
  train/_annotations.coco.json and valid/_annotations.coco.json next to the images      (Roboflow's)
  one json with boxes, in the folder or one below                                       (COCO; split)
  data.yaml with train: and val: folders of images, labels/ next to images/             (YOLO)
  JPEGImages/, Annotations/, ImageSets/Main/{train,val,trainval,test}.txt               (Pascal VOC)
  images/ + annotations/ of xml files, xml next to images; train/ and valid/ of these   (Pascal VOC)
  Without val, test is taken, or a part of train (--val-share).
  LabelMe, Label Studio's JSON, VIA, CreateML and CVAT's XML: export them as COCO or YOLO.
  anything else: name the parts with --train-ann, --train-images, --val-ann, --val-images"""
Given = Mapping[str, tuple[Path | None, Path | None]]
"""Annotations and folder of images of each split, where they are named one by one."""
Parts = dict[str, tuple[Path, Path | None]]
"""Annotations of each split that there is, and the folder of its images where it is known."""


@dataclass(frozen=True)
class Split:
    """One part of a data set: an annotation file and the folder that its file names start from."""

    annotations: Path
    images: Path


def locate(
    folder: str | Path | None, given: Given, share: float | None
) -> tuple[Path | None, Parts, list[str]]:
    """Return the root of a data set and what `find_annotations` does; raises where that is nothing."""
    root = data_root(folder)
    parts, notes = find_annotations(root, given, share)
    if not parts:
        raise no_annotations('train', root)
    return root, parts, notes


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
    """Return the splits that there are, VOC and YOLO converted, and lines that say how val was chosen."""
    named: Parts = {}
    for name, (path, images) in given.items():
        if path is not None:
            named[name] = (path.expanduser().absolute(), images)
            if not named[name][0].is_file():
                raise UserError(f'{path}: no such annotation file (the {name} split); see --{name}-ann')
    parts, notes = named, []
    if root is not None and len(named) < len(given):
        files, notes, lone = _coco_files(root)
        found: Parts = {name: (file, None) for name, file in files.items()}
        layout = None if any(map(has_boxes, files.values())) else find_layout(root)
        if layout is not None:
            found = {name: (file, _base(root, root)) for name, file in converted(root, layout).items()}
            notes, lone = layout.note.splitlines(), 'val' not in layout.splits
        if lone and 'train' in found and not given['val'][0]:
            images = found['train'][1] or given['train'][1] or given['val'][1]
            made = _split(root, found['train'][0], images, VAL_SHARE if share is None else share)
            if made is not None:
                found, share = made[0], None
                notes.append(made[1])
        parts = {name: (found[name][0], given[name][1] or found[name][1]) for name in found} | named
    if share is not None and 'val' in parts:
        raise UserError(f'--val-share {share:g}: there is a val already: {parts["val"][0]}; leave it out')
    return parts, notes


def find_layout(root: Path) -> Layout | None:
    """Return the layout of a folder or ``data.yaml`` as Pascal VOC's or YOLO's, ``None`` if it is neither."""
    if root.is_file():
        layout = find_yolo(root)
        if layout is None:
            raise UserError(f'{root}: expected a YOLO data.yaml with "names" and "train"')
        return layout
    yamls = sorted(visible(root, '*.y*ml'), key=lambda path: path.stem != 'data')
    layout = next(filter(None, map(find_yolo, yamls)), None)
    return layout or find_voc(root) or find_yolo_plain(root)


def _coco_files(root: Path) -> tuple[dict[str, Path], list[str], bool]:
    """Return the json of each split, a line where val is test, and whether only one json has boxes."""
    files = sorted(
        files_in(root, ('.json',)), key=lambda path: ('instances' not in path.name, len(path.parts))
    )
    boxed = [path for path in files if has_boxes(path)]
    words = {path: re.split('[^a-z]+', str(path.relative_to(root)).lower()) for path in files}
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        named = [path for name in names for path in files if name in words[path]]
        if named:
            found[split] = next((path for path in named if path in boxed), named[0])
    if len(boxed) == 1 and found.get('train', boxed[0]) == boxed[0] and 'val' not in found:
        return {'train': boxed[0]}, [], True
    val = found.get('val')
    is_test = val is not None and not {*words[val]} & {*SPLITS['val'][:-1]}
    return found, [f'there is no val with boxes: {val} is taken as val'] * is_test, False


def has_boxes(path: Path) -> bool:
    """Return, without parsing it, whether a json file may have boxes, not captions, say."""
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b'"bbox"') >= 0 and content.find(b'"images"') >= 0
    except (OSError, ValueError):  # an empty file, too
        return False


def no_annotations(name: str, root: Path | None, known: Sequence[str] = ()) -> UserError:
    """Return the error for a data set without a split."""
    if root is None:
        return UserError(
            f'--{name}-ann is missing: the {name} annotations are needed here, by it or by --data'
        )
    jsons = [str(path.relative_to(_base(root, root))) for path in files_in(_base(root, root), ('.json',))]
    return UserError(
        f'--data: {root}: found no {name} annotations among its json files '
        f'({", ".join(jsons[:10]) or "none"}){"".join(f", only {each}" for each in known)}; '
        f'layouts understood:\n{LAYOUTS}'
    )


def val_part(files: Iterable[str], share: float) -> set[str]:
    """Return the images of val, by a hash of each name: more images change the side of none.

    Copies that Roboflow made of one photo, ``NAME.rf.HASH.jpg``, are on the same side, and so are files whose
    names differ only in their suffix. The lowest hash is always in val; nothing is if train would be empty.
    """
    place = {}
    for file in files:
        stem = os.path.splitext(Path(file).as_posix())[0].partition('.rf.')[0]
        digest = hashlib.blake2b(stem.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
        place[file] = int.from_bytes(digest, 'big')
    limit = max(share * 2**64, min(place.values(), default=0) + 1)
    part = {file for file, number in place.items() if number < limit}
    return part if len(part) < len(place) else set()


def _split(root: Path, file: Path, images: Path | None, share: float) -> tuple[Parts, str] | None:
    """Return a train and a val that are made of one annotation file, kept in the cache, and a note.

    ``None`` if there are too few images, or errors, which are reported for the file itself.
    """
    table, findings = survey(file)
    part = val_part(table.files, share)
    if not part or any(each.severity == 'error' and each.kind not in FIXED for each in findings):
        return None
    ids = {at for at, name in zip(table.images_at, table.files) if name in part}
    state = file.stat()
    lines = [str(file), f'{state.st_size} {state.st_mtime_ns}']
    folder = cached((root, share), lines, lambda: _divide(read_json(file), ids))
    base = find_images('train', root, file, images, table.files)
    return {name: (folder / f'{name}.json', base) for name in SPLITS}, (
        f'{root}: there is no val: {len(part)} of {len(table.files)} images are taken as it, '
        f'by a hash of their names (--val-share {share:g})'
    )


def _divide(content: dict[str, Any], positions: set[int]) -> dict[str, Any]:
    """Return the content of an annotation file as train, and as val, which has the images at positions."""
    ids = {content['images'][position]['id'] for position in positions}
    info = content.get('info') if isinstance(content.get('info'), dict) else {}
    parts = {}
    for name, is_val in (('train', False), ('val', True)):
        images = [image for image in content['images'] if (image['id'] in ids) is is_val]
        boxes = [box for box in content['annotations'] if (box['image_id'] in ids) is is_val]
        # What the conversion has found is listed once, in train.
        own = {key: value for key, value in info.items() if not (is_val and key in CONVERTED)}
        parts[name] = {**content, 'info': own, 'images': images, 'annotations': boxes}
    return parts


def find_images(
    name: str, root: Path | None, annotations: Path, images: Path | None, files: Sequence[str]
) -> Path:
    """Return the folder that the file names of a split start from: ``images`` where that is given."""
    base = _base(annotations, root)
    folders = [images.expanduser().absolute()] if images is not None else [annotations.parent, base]
    if images is None:
        stem = annotations.stem.lower().removeprefix('instances_').removeprefix('person_keypoints_')
        start = tuple(SPLITS[name])
        inside = [path for level in ('*', '*/*') for path in visible(base, level) if path.is_dir()]
        inside.sort(key=lambda path: not path.name.lower().startswith(start))
        for folder in inside:
            words = [word.lower() for word in folder.relative_to(base).parts]
            if all(word in ('images', 'data', stem) or word.startswith(start) for word in words):
                folders.append(folder)
    names = files[:IMAGES_PROBED]
    present = {folder: sum(os.path.isfile(folder / file) for file in names) for folder in folders}
    best = max(folders, key=lambda folder: present[folder])
    if names and not present[best]:
        raise UserError(f'{annotations}: {misplaced(name, annotations, best, names, root)}')
    return best


def is_there(folder: Path, file: str, listing: dict[Path, set[str]]) -> bool:
    """Return whether a file is in a folder, from a listing that is read once."""
    parent, _, name = file.rpartition('/')
    where = folder / parent
    if where not in listing:
        try:
            listing[where] = set(os.listdir(where))
        except (OSError, ValueError):  # of names that no file system has, too
            listing[where] = set()
    return name in listing[where] or os.path.isfile(folder / file)  # in other letter case, on some systems


def misplaced(
    name: str, annotations: Path, images: Path, files: Sequence[str], root: Path | None = None
) -> str:
    """Return the message that images of a split are not in their folder, and where one of them may be."""
    wanted = PureWindowsPath(files[0]).name.lower()  # which knows both kinds of slashes
    paths = islice(walk(_base(annotations, root)), FILES_PROBED)
    near = next((path for path in paths if os.path.basename(path).lower() == wanted), None)
    return (
        f'{len(files)} of its first {len(files)} images are not in {images}, {files[0]} for one'
        + (f', which may be {near}' if near else '')
        + f'; give their folder with --{name}-images, or correct file_name (folders, letter case)'
    )


def _base(annotations: Path, root: Path | None) -> Path:
    """Return the folder of a data set."""
    if root is not None:
        return root if root.is_dir() else root.parent
    folder = annotations.parent
    return folder.parent if folder.name.lower() == 'annotations' else folder

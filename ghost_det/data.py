"""Detection data in COCO format: finding it, reading its classes, and fitting a config to it."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any

from .annotations import ALIGNED, MENDED, complete_boxes, foreign, read_annotations, refuse_faults, survey
from .errors import UserError
from .files import atomic
from .images import visible
from .preflight.convert import SPLITS, converted, find_layout
from .preflight.findings import Finding, found
from .preflight.images import tagged_images
from .preflight.split import VAL_SHARE, split_coco, with_val
from .preflight.table import is_there, left_out, reasons
from .sample import SAMPLES, make_sample
from .texts import plural

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


@dataclass(frozen=True)
class DetectionData:
    """A data set in COCO format; ``classes`` in the order of their labels.

    ``warnings`` tell what is odd, ``notes`` how its splits were chosen.
    """

    train: Split | None
    val: Split
    classes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Located:
    """The splits of a data set whose classes were not looked at; see `DetectionData`."""

    splits: dict[str, Split]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def with_classes(self, classes: Sequence[str] | None = None) -> DetectionData:
        """Return the data set with the classes of train, or those of a trained detector.

        Raises:
            UserError: train has no boxes, or val has boxes of other classes.
        """
        train, val = self.splits.get('train') if not classes else None, self.splits['val']
        names = class_names(train.annotations) if train else tuple(classes or ())
        _check_same_classes(names, val.annotations)
        return DetectionData(train, val, names, self.warnings, self.notes)


def find_data(
    folder: str | Path | None,
    train_ann: Path | None = None,
    train_images: Path | None = None,
    val_ann: Path | None = None,
    val_images: Path | None = None,
    classes: Sequence[str] | None = None,
    val_share: float | None = None,
) -> DetectionData:
    """Find both splits of a data set, check them, read the classes from the training annotations.

    Args:
        folder: ``'sample'`` for the generated one, or a folder in one of the `LAYOUTS`.
        train_ann: training annotations, where ``folder`` does not lead to them.
        train_images: folder of the training images.
        val_ann: validation annotations.
        val_images: folder of the validation images.
        classes: those of a trained detector, to evaluate it; no training split is looked for then.
        val_share: the part of train that becomes val where there is none; 0.2 by default.

    Raises:
        UserError: something is missing, not in COCO format, or wrong; see `quick_check`.
    """
    given = {'train': (train_ann, train_images), 'val': (val_ann, val_images)}
    names = ('val',) if classes else ('train', 'val')
    return find_splits(folder, given, names, val_share).with_classes(classes)


def find_splits(
    folder: str | Path | None, given: Given, names: Sequence[str], share: float | None = None
) -> Located:
    """Find splits of a data set and check them.

    Args:
        folder: see `find_data`.
        given: what is named one by one.
        names: the splits that are needed.
        share: of val, see `find_data`.

    Raises:
        UserError: see `find_data`.
    """
    root = data_root(folder)
    parts, notes = find_annotations(root, given, share)
    splits = {}
    for name in names:
        if name in parts:
            path, images = parts[name]
            splits[name] = Split(path, find_images(name, root, path, images, survey(path).files))
    odd = quick_check([*splits.items()], mended=MENDED)
    for name in names:
        if name not in splits:
            raise no_annotations(name, root, [*parts])
    return Located(splits, tuple(fault.line() for fault in odd), tuple(notes))


def quick_check(
    splits: Sequence[tuple[str, Split]],
    mended: Sequence[str] = (),
    more: Sequence[tuple[Path, Finding]] = (),
) -> list[Finding]:
    """Check annotations, and that every image is there, without opening any.

    Args:
        splits: names and parts of a data set.
        mended: kinds of faults that do not matter; without any, those of `ALIGNED` are errors.
        more: pairs of annotation file and finding, of other checks.

    Returns:
        warnings.

    Raises:
        UserError: it lists the errors.
    """
    faults = [*more]
    listing: dict[Path, set[str]] = {}
    for name, split in splits:
        seen = survey(split.annotations)
        lost = [file for file in seen.files if not is_there(split.images, file, listing)]
        if lost and len(lost) == len(seen.files):
            missing = found('wrong image folder', '', [_misplaced(name, split, lost)])
        else:
            missing = found('missing file', '', (str(split.images / file) for file in lost))
        for fault in (*seen.findings, *missing, *tagged_images(seen.table, name, split.images)):
            severity = 'error' if fault.kind in ALIGNED and not mended else fault.severity
            if fault.kind not in mended:
                faults.append((split.annotations, replace(fault, split=name, severity=severity)))
    refuse_faults(faults)
    common = []
    for train in (split for name, split in splits if name == 'train'):
        for val in (split for name, split in splits if name == 'val'):
            common += shared_images(
                train, survey(train.annotations).files, val, survey(val.annotations).files
            )
    return [
        # Not an error here, since some train on what they measure to see whether a network can learn it.
        *found('image in both splits', '', common, severity='warning'),
        *(fault for _, fault in faults if fault.severity == 'warning'),
    ]


def shared_images(train: Split, files: Sequence[str], val: Split, others: Sequence[str]) -> list[str]:
    """Return the images of train that are val's, too: the same file, or one of the same name and content.

    Of contents, the sizes and the first blocks are compared.

    Args:
        train: one split.
        files: its file names.
        val: another split.
        others: its file names.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for other in others:
        named[os.path.basename(other)].append(os.path.normpath(val.images / other))
    return [
        file
        for file in files
        if any(
            _same(os.path.normpath(train.images / file), other)
            for other in named.get(os.path.basename(file), ())
        )
    ]


def _same(first: str, second: str) -> bool:
    try:
        if first == second or os.path.samefile(first, second):
            return True
        size = os.path.getsize(first)
        if not size or size != os.path.getsize(second):
            return False
        with open(first, 'rb') as one, open(second, 'rb') as two:
            return one.read(1 << 16) == two.read(1 << 16)
    except (OSError, ValueError):  # of names that no file system has, too
        return False


def data_root(folder: str | Path | None) -> Path | None:
    """Return the folder or ``data.yaml`` that ``--data`` names, generated first where it is ``'sample'``.

    Raises:
        UserError: there is neither.
    """
    if folder in SAMPLES:
        try:
            folder = make_sample(one_shape=SAMPLES[str(folder)])
        except OSError as error:
            raise UserError(f'--data {folder}: {error}') from None
    root = None if folder is None else Path(folder).expanduser().absolute()
    if root is not None and not root.is_dir() and not (root.is_file() and root.suffix in ('.yaml', '.yml')):
        there = 'a file' if root.exists() else 'nothing'
        raise UserError(f"--data: {root}: a folder is wanted ('sample' generates one), found {there}")
    return root


def find_annotations(root: Path | None, given: Given, share: float | None = None) -> tuple[Parts, list[str]]:
    """Find the annotations of the splits; those of VOC and YOLO are converted, and val is made if need be.

    Args:
        root: folder of the data set.
        given: what is named one by one.
        share: of val, where it is made of train; `VAL_SHARE` by default.

    Returns:
        annotations and images of the splits that there are, and lines that say how val was chosen.

    Raises:
        UserError: a file that is named is not there, ``share`` is not of use, or see `converted`.
    """
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


def _of_folder(root: Path, given: Given, share: float) -> tuple[Parts, list[str], bool]:
    """Return the splits of a folder, lines that say how val was chosen, and whether it was made of train."""
    found, notes = _named_files(root)
    if not any(map(has_boxes, found.values())):
        layout = find_layout(root)
        if layout:
            if given['val'][0] is None:
                layout = with_val(root, layout, share)
            base = root.parent if root.is_file() else root
            parts: Parts = {name: (file, base) for name, file in converted(root, layout).items()}
            return parts, layout.note.splitlines(), layout.share is not None
    parts = {name: (path, None) for name, path in found.items()}
    lone = [path for pattern in ('*.json', '*/*.json') for path in visible(root, pattern) if has_boxes(path)]
    if 'val' in found or len(lone) != 1 or found.get('train', lone[0]) != lone[0]:
        return parts, notes, False
    parts = {'train': (lone[0], None)}
    try:
        content, images = survey(lone[0]), given['train'][1] or given['val'][1]
        folder = find_images('train', root, lone[0], images, content.files)
    except UserError:  # which is to be reported where the file is read
        return parts, [], False
    faulty = any(each.severity == 'error' and each.kind not in MENDED for each in content.findings)
    made, note = split_coco(lone[0], share) if given['val'][0] is None and not faulty else ({}, '')
    return ({n: (path, folder) for n, path in made.items()}, [note], True) if made else (parts, [], False)


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
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b'"bbox"') >= 0 and content.find(b'"images"') >= 0
    except (OSError, ValueError):  # an empty file, too
        return False


def no_annotations(name: str, root: Path | None, known: Sequence[str] = ()) -> UserError:
    """Return what to raise where a data set lacks a split.

    Args:
        name: of the split.
        root: folder of the data set.
        known: the splits that there are; without any, another folder may have been meant.
    """
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
    queue = deque([(root, 0)])
    for _ in range(FOLDERS_PROBED):
        if not queue:
            return
        folder, level = queue.popleft()
        yield folder
        if level < depth:
            try:
                with os.scandir(folder) as entries:
                    names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith('.'))
            except OSError:
                continue
            queue += [(folder / name, level + 1) for name in names]


def find_images(
    name: str, root: Path | None, annotations: Path, images: Path | None, files: Sequence[str]
) -> Path:
    """Return the folder that the file names of a split start from.

    Args:
        name: ``'train'`` or ``'val'``.
        root: folder of the data set.
        annotations: its annotation file.
        images: the folder, where it is given.
        files: the file names.

    Raises:
        UserError: the first images are in none of the folders that come into question.
    """
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
        raise UserError(f'{annotations}: {_misplaced(name, Split(annotations, best), names, root)}')
    return best


def _misplaced(name: str, split: Split, files: Sequence[str], root: Path | None = None) -> str:
    """Say that images of a split are not in their folder, and where they are."""
    option = f'--{name}-images'
    below = (
        folder for base in (split.images, _base(split.annotations, root)) for folder in _folders(base, 2)
    )
    folders = list(dict.fromkeys([*below, *split.images.parents[:2]]))
    right = next((f for f in folders if any(os.path.isfile(f / file) for file in files[:5])), None)
    hint = f'give their folder with {option}'
    if right is not None:
        hint = f'they are in {right}: {option} {right}'
    else:
        bare = {PureWindowsPath(file).name.lower(): file for file in files[:5]}  # with both kinds of slashes
        near = (path for f in folders for path in visible(f, '*') if path.name.lower() in bare)
        for path in filter(Path.is_file, near):
            given = bare[path.name.lower()]
            hint = (
                f'{given} may be {path}: correct file_name (folders, letter case), which starts from {option}'
            )
            break
    return (
        f'{len(files)} of its first {len(files)} images are not in {split.images}, {files[0]} for one; {hint}'
    )


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


def class_names(annotations: Path) -> tuple[str, ...]:
    """Return the class names of an annotation file in its order, which is that of mmdet's labels.

    See `Table.classes` for categories that are none.

    Raises:
        UserError: there are no boxes, or errors in the file.
    """
    content = survey(annotations)
    refuse_faults([(annotations, fault) for fault in content.findings if fault.kind not in MENDED])
    for fault in content.findings:
        if fault.kind == 'no boxes':
            raise UserError(f'{annotations}: {fault.where[0]}')
    return tuple(content.categories[index]['name'] for index in content.table.classes())


def _check_same_classes(classes: Sequence[str], annotations: Path) -> None:
    content = survey(annotations)
    names = {category['id']: category['name'] for category in content.categories}
    for used in content.used:
        if names[used] not in classes:
            raise UserError(
                f'{annotations}: has boxes of the class {names[used]!r} (id {used}), '
                f'which is not among the {plural(len(classes), "class")} to find: {", ".join(classes[:20])}'
            )


def aligned_annotations(annotations: Path, classes: Sequence[str], folder: Path) -> Path:
    """Return annotations whose categories are ``classes`` in this order: the file itself, or a copy.

    mmdet numbers labels by the file's own order, whatever order ``classes`` has, so a validation
    file in another order shifts them in silence. The copy also has what COCO's evaluation needs:
    ``area`` and ``iscrowd``, and box ids from 1 on, since its matcher takes id 0 for "no match".

    Args:
        annotations: a COCO-format file; it stays as it is.
        classes: names in the order of the labels.
        folder: where to write a copy.

    Raises:
        UserError: the file has boxes of a class that is not in ``classes``.
    """
    found = survey(annotations)
    order = [category['name'] for category in found.categories if category['name'] in classes]
    if order == list(classes) and found.complete and found.plain:
        return annotations
    _check_same_classes(classes, annotations)
    content = read_annotations(annotations)
    by_name = {category['name']: category for category in content['categories']}
    free = max(category['id'] for category in content['categories']) + 1
    content['categories'] = [
        by_name.get(name, {'id': free + label, 'name': name}) for label, name in enumerate(classes)
    ]
    complete_boxes(content)
    content.setdefault('info', {})
    copy = folder / annotations.name
    with atomic(copy) as partial:  # as every process of a distributed run comes through here
        partial.write_text(json.dumps(content))
    return copy


def use_data(cfg: Any, data: DetectionData, folder: Path) -> None:
    """Point every loader, evaluator and head of a config at ``data``.

    Args:
        cfg: an mmengine ``Config`` of a detector; changed in place.
        data: the data set.
        folder: where aligned copies of annotations go, if any are needed.
    """
    for name, split in (('train', data.train), ('val', data.val), ('test', data.val)):
        if split is None or not cfg.get(f'{name}_dataloader'):
            continue
        annotations = aligned_annotations(split.annotations, data.classes, folder / name)
        _only_first(cfg[f'{name}_dataloader'])
        dataset = innermost(cfg[f'{name}_dataloader'])
        dataset.update(
            type='CocoDataset',
            data_root='',
            ann_file=str(annotations),
            data_prefix=dict(img=str(split.images)),
            metainfo=dict(classes=data.classes, **_palette(len(data.classes))),
        )
        if name != 'train':
            for evaluator in evaluators(cfg, name):
                evaluator['ann_file'] = str(annotations)
    set_num_classes(cfg.model, len(data.classes))


def used_boxes(loader: Any) -> Iterator[tuple[str, bool]]:
    """Compare the boxes that built datasets of mmdet yield to a training with those in their files.

    Args:
        loader: of the training; datasets that read no COCO file, or in their own way, are passed over.

    Yields:
        a line for each dataset, and whether it is a warning: its numbers do not add up.

    Raises:
        UserError: none of the boxes are used.
    """
    from mmdet.datasets import CocoDataset

    for dataset in all_innermost(loader):
        readers = [getattr(type(dataset), name, None) for name in ('load_data_list', 'parse_data_info')]
        if readers != [CocoDataset.load_data_list, CocoDataset.parse_data_info]:
            continue
        try:
            table = survey(Path(dataset.ann_file)).table
        except UserError:  # of remote storage
            continue
        entries = (dataset.get_data_info(index)['instances'] for index in range(len(dataset)))
        used = sum(not instance['ignore_flag'] for instances in entries for instance in instances)
        filters = {} if dataset.test_mode else dataset.filter_cfg or {}
        left = left_out(table, dataset.metainfo['classes'], filters.get('min_size', 0))
        unknown = len(table.boxes) - used - sum(left.values())
        if dataset._indices is not None and unknown > 0:
            left['not among its indices'] = unknown
        elif unknown:
            left['for a reason unknown to ghost_det: please report it'] = unknown
        line = (
            f'train ({Path(dataset.ann_file).name}): {used:,} of {len(table.boxes):,} boxes '
            f'in {len(dataset):,} of {len(table.files):,} images are used{reasons(left)}'
        )
        if not used:
            raise UserError(f'{line}: nothing to learn from')
        yield line, bool(unknown) and dataset._indices is None


def evaluators(cfg: Any, name: str) -> list[Any]:
    """Return the evaluators of a split as a list, whether the config has one or several."""
    found = cfg[f'{name}_evaluator']
    return found if isinstance(found, list) else [found]


def all_innermost(part: Any) -> Iterator[Any]:
    """Yield the datasets of a loader, in a config or built, under wrappers such as ``ConcatDataset``."""
    one, several = (
        part.get(key) if isinstance(part, dict) else getattr(part, key, None)
        for key in ('dataset', 'datasets')
    )
    inner = several or [] if one is None else [one]
    for dataset in inner:
        yield from all_innermost(dataset)
    if not inner:
        yield part


def innermost(loader: Any) -> Any:
    """Return the first dataset of a loader; nothing is changed."""
    return next(all_innermost(loader))


def _only_first(part: Any) -> None:
    """Leave one dataset in each ``ConcatDataset`` of a loader, in place."""
    if part.get('datasets'):
        part['datasets'] = part['datasets'][:1]
    for inner in [part['dataset']] if part.get('dataset') else part.get('datasets') or []:
        _only_first(inner)


def _palette(count: int) -> dict[str, Any]:
    """Return colours where there are more classes than COCO's own palette has."""
    if count <= 80:
        return {}
    from mmdet.visualization import get_palette

    return {'palette': [tuple(int(c) for c in colour) for colour in get_palette('random', count)]}


def set_num_classes(model: Any, count: int) -> None:
    """Set ``num_classes`` in every head; backbones and necks may use the word for something else."""
    if isinstance(model, list):
        for part in model:
            set_num_classes(part, count)
    elif isinstance(model, dict):
        for key, value in model.items():
            if key == 'num_classes':
                model[key] = count
            elif key not in ('backbone', 'neck', 'semantic_head'):
                set_num_classes(value, count)


def missing_data(cfg: Any, splits: Sequence[str]) -> list[Path]:
    """Return the annotation files and image folders of a config that are not on this machine.

    Files of remote storage (``s3://...``) are not looked for.
    """
    missing = []
    for dataset in (each for name in splits for each in all_innermost(cfg[f'{name}_dataloader'])):
        root = dataset.get('data_root') or ''
        for part in (dataset.get('ann_file'), dataset.get('data_prefix', {}).get('img')):
            if part and '://' not in f'{root}{part}' and not (Path(root) / part).exists():
                missing.append(Path(root) / part)
    return missing

"""Detection data in COCO format: reading its classes, checking it, and fitting a config to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghost_det.config.query import all_innermost, evaluators, innermost, leave_first, set_num_classes
from ghost_det.errors import UserError
from ghost_det.utils.files import atomic
from ghost_det.utils.text import plural

from .annotations import FIXED, complete_boxes, has_byte_order_mark, read_annotations, refuse_faults, survey
from .layouts import Split, find_images, locate, no_annotations
from .quick_check import quick_check
from .table import left_out, reasons


@dataclass(frozen=True)
class DetectionData:
    """A data set in COCO format."""

    train: Split | None
    val: Split
    classes: tuple[str, ...]  # in the order of their labels
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # how its splits were chosen


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

    ``folder`` is in one of `layouts.LAYOUTS`, or ``'sample'`` for the generated one; the parts that are named
    win. With the ``classes`` of a trained detector, to evaluate it, train is not needed. ``val_share`` is the
    part of train that becomes val if there is none, 0.2 by default.
    """
    given = {'train': (train_ann, train_images), 'val': (val_ann, val_images)}
    names = ('val',) if classes else ('train', 'val')
    root, parts, notes = locate(folder, given, val_share)
    splits = {}
    for name in (name for name in names if name in parts):
        path, images = parts[name]
        splits[name] = Split(path, find_images(name, root, path, images, survey(path).table.files))
    warnings = [finding.line() for finding in quick_check([*splits.items()], fixed=FIXED)]
    for name in names:
        if name not in splits:
            raise no_annotations(name, root, [*parts])
    train, val = splits.get('train'), splits['val']
    labels = class_names(train.annotations) if train else tuple(classes or ())
    _check_same_classes(labels, val.annotations)
    return DetectionData(train, val, labels, tuple(warnings), tuple(notes))


def class_names(annotations: Path) -> tuple[str, ...]:
    """Return the class names of an annotation file in its order, which is that of mmdet's labels."""
    table, findings = survey(annotations)
    kinds = {*FIXED} - {'no boxes'}
    refuse_faults([(annotations, fault) for fault in findings if fault.kind not in kinds])
    return tuple(table.categories[index]['name'] for index in table.classes())


def _check_same_classes(classes: Sequence[str], annotations: Path) -> None:
    table = survey(annotations).table
    names = {category['id']: category['name'] for category in table.categories}
    for used in table.used():
        if names[used] not in classes:
            raise UserError(
                f'{annotations}: has boxes of the class {names[used]!r} (id {used}), '
                f'which is none of the {plural(len(classes), "class")} to detect: {", ".join(classes[:20])}'
            )


def aligned_annotations(annotations: Path, classes: Sequence[str], folder: Path) -> Path:
    """Return annotations with ``classes`` in this order: the file itself, or a copy in ``folder``.

    mmdet numbers labels by the file's own order, so another order silently shifts them.
    """
    table = survey(annotations).table
    order = [category['name'] for category in table.categories if category['name'] in classes]
    if order == list(classes) and table.complete and not has_byte_order_mark(annotations):
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
    with atomic(copy) as partial:  # as every process of a distributed run writes it
        partial.write_text(json.dumps(content))
    return copy


def use_data(cfg: Any, data: DetectionData, folder: Path) -> None:
    """Point loaders, evaluators and heads of a config, in place, at ``data``; copies go to ``folder``."""
    for name, split in (('train', data.train), ('val', data.val), ('test', data.val)):
        if split is None or not cfg.get(f'{name}_dataloader'):
            continue
        annotations = aligned_annotations(split.annotations, data.classes, folder / name)
        leave_first(cfg[f'{name}_dataloader'])
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


def _palette(count: int) -> dict[str, Any]:
    """Return colours for more classes than COCO's own palette has."""
    if count <= 80:
        return {}
    from mmdet.visualization import get_palette

    return {'palette': [tuple(map(int, colour)) for colour in get_palette('random', count)]}


def used_boxes(loader: Any) -> Iterator[tuple[str, bool]]:
    """Yield a line for each built COCO dataset, how many boxes of its file it uses; and whether to warn."""
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
        if unknown:
            left['for other reasons, as the indices of the dataset'] = unknown
        line = (
            f'train ({Path(dataset.ann_file).name}): {used:,} of {len(table.boxes):,} boxes '
            f'in {len(dataset):,} of {len(table.files):,} images are used{reasons(left)}'
        )
        if not used:
            raise UserError(f'{line}: nothing to learn from')
        yield line, bool(unknown)


def missing_data(cfg: Any, splits: Sequence[str]) -> list[Path]:
    """Return annotation files and image folders of a config that do not exist, without remote ones."""
    missing = []
    for dataset in (each for name in splits for each in all_innermost(cfg[f'{name}_dataloader'])):
        root = dataset.get('data_root') or ''
        for part in (dataset.get('ann_file'), dataset.get('data_prefix', {}).get('img')):
            if part and '://' not in f'{root}{part}' and not (Path(root) / part).exists():
                missing.append(Path(root) / part)
    return missing

"""Checking what a config says about classes against its data, and the data that a config names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghost_det.config.query import all_innermost, evaluators, heads, innermost
from ghost_det.data.annotations import survey
from ghost_det.data.dataset import Split, quick_check
from ghost_det.data.table import Table
from ghost_det.errors import UserError

from .findings import Finding, found


def config_splits(cfg: Any, names: Sequence[str]) -> list[tuple[str, Split]]:
    """Return the splits of a config whose annotations are in COCO's format and on this machine."""
    splits = []
    loaders = [(name, cfg[f'{name}_dataloader']) for name in names if cfg.get(f'{name}_dataloader')]
    for name, dataset in ((name, dataset) for name, loader in loaders for dataset in all_innermost(loader)):
        root = str(dataset.get('data_root') or '')
        file = str(dataset.get('ann_file') or '')
        images = str((dataset.get('data_prefix') or {}).get('img') or '')
        known = str(dataset.get('type')).rpartition('.')[2] == 'CocoDataset'
        # Of a hidden test set there are only the images' names.
        blind = name != 'train' and any(e and e.get('format_only') for e in evaluators(cfg, name))
        remote = '://' in f'{root}{file}{images}' or dataset.get('backend_args')
        if known and not blind and not remote and (Path(root) / file).is_file():
            splits.append((name, Split(Path(root) / file, Path(root) / images)))
    return splits


def check_configured(cfg: Any, names: Sequence[str]) -> list[Finding]:
    """Check the data that a config names, and its classes, as `quick_check` does."""
    splits = config_splits(cfg, names)
    more = []
    for name, split in splits:
        table = survey(split.annotations).table
        more += [(split.annotations, finding) for finding in check_config(cfg, {name: table})]
    return quick_check(splits, more=more)


def check_config(cfg: Any, tables: Mapping[str, Table], defaults: bool = True) -> list[Finding]:
    """List where the classes that a config says do not fit its data.

    Args:
        cfg: of a detector.
        tables: the annotations of each split.
        defaults: a config without classes stands for those of its dataset class, as in mmdet; otherwise it
            is a recipe for any data, in which ``--data`` sets classes and their number.
    """
    findings: list[Finding] = []
    for name, table in tables.items():
        if not cfg.get(f'{name}_dataloader'):
            continue
        dataset = innermost(cfg[f'{name}_dataloader'])
        metainfo = dataset.get('metainfo') or {}
        place = f'{name}_dataloader.dataset.metainfo'
        if 'CLASSES' in metainfo and 'classes' not in metainfo:
            findings += found('CLASSES in config', name, [f'{place} has CLASSES={metainfo["CLASSES"]}'])
            continue
        classes = metainfo.get('classes')
        if isinstance(classes, str):
            if not Path(classes).is_file():
                findings += found('classes is a text', name, [f'{place}.classes is {classes!r}'])
            continue
        if classes is None and defaults:
            from mmdet.registry import DATASETS

            classes = DATASETS.get(dataset.type).METAINFO.get('classes')
            place = f'{dataset.type}, which is asked without metainfo.classes,'
        names = [str(category['name']) for category in table.categories]
        if classes is not None:
            findings += _check_names(list(classes), names, name, place)
        # Detectors of any text have more outputs than classes.
        if classes is not None and not dataset.get('return_classes'):
            places = [
                f'{at}.num_classes is {head["num_classes"]}, the data has {len(classes)}'
                for at, head in heads(cfg.model)
            ]
            if len(classes) not in (head['num_classes'] for _, head in heads(cfg.model)):
                findings += found('num_classes', name, places, severity='error' if defaults else 'note')
    return findings


def _check_names(classes: list[str], names: list[str], split: str, place: str) -> list[Finding]:
    """Compare the classes of a dataset of mmdet with the names in its file, in their order."""
    unknown = []
    for index, name in enumerate(classes):
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f'; is {near[0]!r} meant?' if near else f'; the data has {", ".join(names[:10])}'
            unknown.append(f'{place}: class {index} is {name!r}{hint}')
    findings = found('class name in config', split, unknown)
    inside = [name for name in names if name in classes]
    wanted = [name for name in classes if name in names]
    if inside != wanted and len(set(names)) == len(names):
        first = next((a, b) for a, b in zip(wanted, inside) if a != b)
        findings += found(
            'class order in config', split, [f'{place}: {first[0]!r} stands where the data has {first[1]!r}']
        )
    return findings


def data_of_config(cfg: Any) -> list[Path | None]:
    """Return annotations and images of train, then of val, that a config names.

    Raises:
        UserError: none of them are in COCO's format and on this machine.
    """
    splits = dict(reversed(config_splits(cfg, ('train', 'val'))))  # of several of a loader, the first
    if not splits:
        raise UserError(f'{cfg.filename}: names no COCO annotations that are on this machine; give a FOLDER')
    parts: list[Path | None] = []
    for name in ('train', 'val'):
        parts += [splits[name].annotations, splits[name].images] if name in splits else [None, None]
    return parts

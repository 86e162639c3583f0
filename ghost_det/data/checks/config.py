"""Checking the classes in a config against its data, and the data that a config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghost_det.config.query import all_innermost, evaluators, heads, innermost
from ghost_det.data.annotations import survey
from ghost_det.data.findings import Finding, found
from ghost_det.data.layouts import Split
from ghost_det.data.quick_check import quick_check
from ghost_det.data.table import Table
from ghost_det.errors import UserError


def config_splits(cfg: Any, names: Sequence[str]) -> list[tuple[str, Split]]:
    """Return the splits of a config whose annotations are in COCO's format and on this machine."""
    splits = []
    loaders = [(name, cfg[f'{name}_dataloader']) for name in names if cfg.get(f'{name}_dataloader')]
    for name, dataset in ((name, dataset) for name, loader in loaders for dataset in all_innermost(loader)):
        root = str(dataset.get('data_root') or '')
        file = str(dataset.get('ann_file') or '')
        images = str((dataset.get('data_prefix') or {}).get('img') or '')
        known = str(dataset.get('type')).rpartition('.')[2] == 'CocoDataset'
        # The annotations of a hidden test set only list its images.
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
    """List where the classes in a config do not fit the annotations of each split.

    With ``defaults``, a config without classes has those of its dataset class, as in mmdet; otherwise it is a
    recipe for any data, and ``--data`` sets the classes and their number.
    """
    findings: list[Finding] = []
    for name, table in tables.items():
        if cfg.get(f'{name}_dataloader'):
            dataset = innermost(cfg[f'{name}_dataloader'])
            findings += _check_dataset(dataset, cfg.model, table, name, defaults)
    return findings


def _check_dataset(dataset: Any, model: Any, table: Table, split: str, defaults: bool) -> list[Finding]:
    metainfo = dataset.get('metainfo') or {}
    place = f'{split}_dataloader.dataset.metainfo'
    classes = metainfo.get('classes')
    if 'CLASSES' in metainfo and classes is None:
        return found('CLASSES in config', split, [f'{place} has CLASSES={metainfo["CLASSES"]}'])
    if isinstance(classes, str):
        is_file = Path(classes).is_file()
        return [] if is_file else found('classes is a text', split, [f'{place}.classes is {classes!r}'])
    if classes is None and defaults:
        from mmdet.registry import DATASETS

        classes = DATASETS.get(dataset.type).METAINFO.get('classes')
        place = f'{dataset.type}, used without metainfo.classes,'
    if classes is None:
        return []
    findings = _check_names(list(classes), table, split, place)
    counts = {f'{at}.num_classes': head['num_classes'] for at, head in heads(model)}
    # Detectors of any text have more outputs than classes.
    if not dataset.get('return_classes') and len(classes) not in counts.values():
        places = [f'{at} is {count}, the data has {len(classes)}' for at, count in counts.items()]
        findings += found('num_classes', split, places, severity='error' if defaults else 'note')
    return findings


def _check_names(classes: list[str], table: Table, split: str, place: str) -> list[Finding]:
    """Compare the classes of a dataset of mmdet with the names in its file, in their order."""
    names = [str(category['name']) for category in table.categories]
    known = ', '.join(map(repr, names[:10]))
    unknown = [
        f'{place}: class {index} is {name!r}; the data has {known}'
        for index, name in enumerate(classes)
        if name not in names
    ]
    findings = found('class name in config', split, unknown)
    pairs = zip([name for name in classes if name in names], [name for name in names if name in classes])
    moved = [f'{place}: has {ours!r} but the data has {its!r}' for ours, its in pairs if ours != its]
    return findings + (
        found('class order in config', split, moved[:1]) if len({*names}) == len(names) else []
    )


def data_of_config(cfg: Any) -> list[Path | None]:
    """Return annotations and images of train, then of val, that a config names."""
    splits = dict(reversed(config_splits(cfg, ('train', 'val'))))  # of several of a loader, the first
    if not splits:
        raise UserError(f'{cfg.filename}: names no COCO annotations that are on this machine; give a FOLDER')
    parts: list[Path | None] = []
    for name in ('train', 'val'):
        parts += [splits[name].annotations, splits[name].images] if name in splits else [None, None]
    return parts

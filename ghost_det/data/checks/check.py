"""The check of a data set before a training: the problems, where they are, how to fix them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ghost_det.config.query import innermost
from ghost_det.data.annotations import survey
from ghost_det.data.findings import Finding, found, printable, ranked
from ghost_det.data.layouts import Split, find_images, is_there, locate
from ghost_det.data.quick_check import shared_images, tagged_images
from ghost_det.data.table import Table, left_out, reasons
from ghost_det.errors import UserError
from ghost_det.utils.html import page
from ghost_det.utils.system import cores
from ghost_det.utils.text import plural

from .images import Facts, check_images, common_images, open_images


@dataclass(frozen=True)
class Part:
    """A split that was checked."""

    name: str
    split: Split
    table: Table
    facts: list[Facts | None]  # of each image, ``None`` if it was not opened

    def to_dict(self) -> dict[str, Any]:
        """Return the places and the numbers of images, boxes and classes."""
        table = self.table
        counts = {'images': len(table.files), 'boxes': len(table.boxes), 'categories': len(table.classes())}
        return {'annotations': str(self.split.annotations), 'folder': str(self.split.images), **counts}

    def __str__(self) -> str:
        of = self.to_dict()
        counts = plural(of['images'], 'image'), plural(of['boxes'], 'box'), plural(of['categories'], 'class')
        place = printable(f'{self.name:<6}{of["annotations"]}, images in {of["folder"]}')
        return f'{place}: {", ".join(counts)}'


@dataclass(frozen=True)
class Report:
    """The findings of a check."""

    findings: list[Finding]  # the most severe first
    parts: list[Part]  # the splits that could be read
    anchors: list[str]  # lines on the anchors of the config, empty without one
    left: dict[str, int]  # how many boxes of train mmdet does not train on, by reason

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop a training or spoil it."""
        return [finding for finding in self.findings if finding.severity == 'error']

    def to_html(self) -> str:
        """Return the report as a self-contained page."""
        return page('data/checks/report.html.j2', title='Data check', report=self)

    def __str__(self) -> str:
        lines = []
        for part in self.parts:
            lines.append(str(part))
            if part.name == 'train':
                total = len(part.table.boxes)
                used = total - sum(self.left.values())
                lines.append(f'mmdet trains on {used:,} of {total:,} boxes{reasons(self.left)}')
        for finding in self.findings:
            split = f' in {finding.split}' if finding.split else ''
            lines += ['', f'{finding.severity}: {finding.kind}, {finding.count}{split}: {finding.what}']
            lines += [f'    {place}' for place in finding.where]
            if finding.count > len(finding.where):
                lines.append(f'    and {finding.count - len(finding.where)} more')
            lines.append(f'  fix: {finding.fix}')
        counts = Counter(finding.severity for finding in self.findings)
        summary = ', '.join(plural(number, name) for name, number in counts.items())
        return '\n'.join([*lines, '', *self.anchors, f'found: {summary or "nothing"}'])

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return {
            'findings': [asdict(finding) for finding in self.findings],
            'splits': {part.name: part.to_dict() for part in self.parts},
            'left_out_of_training': self.left,
            'anchors': self.anchors,
        }


def check_dataset(
    folder: str | Path | None,
    train_ann: Path | None = None,
    train_images: Path | None = None,
    val_ann: Path | None = None,
    val_images: Path | None = None,
    config: Any = None,
    quick: bool = False,
    jobs: int | None = None,
    progress: bool = False,
    val_share: float | None = None,
) -> Report:
    """Look for problems in a data set without changing it.

    Args:
        folder: ``'sample'``, or a folder in one of `ghost_det.data.layouts.LAYOUTS`.
        train_ann: training annotations, if ``folder`` does not lead to them.
        train_images: folder of the training images.
        val_ann: validation annotations.
        val_images: folder of the validation images.
        config: a detector's config, whose classes and anchors are compared with the data.
        quick: only check whether the images exist, do not open them.
        jobs: processes that open images; all cores by default.
        progress: show a bar on a terminal.
        val_share: the share of train that becomes val if there is none; 0.2 by default.

    Raises:
        UserError: there are no annotations to check.
    """
    given = {'train': (train_ann, train_images), 'val': (val_ann, val_images)}
    root, known, notes = locate(folder, given, val_share)
    findings = found('val was chosen', '', notes)
    findings += found('missing split', '', [name for name in given if name not in known])
    parts: list[Part] = []
    for name in (name for name in given if name in known):
        try:
            part, problems = _read_part(name, root, *known[name])
        except UserError as error:
            findings += found('wrong json', name, [str(error)])
            continue
        findings += problems + _check_files(part, quick, jobs or cores(), progress)
        parts.append(part)
    if len(parts) == 2:
        train, val = parts
        findings += compare_classes(train.table, val.table)
        common = common_images(train.facts, val.facts)
        shared = shared_images(train.split, val.split) if quick else map(train.table.image_place, common)
        findings += found('image in both splits', '', shared)
    anchors: list[str] = []
    left: dict[str, int] = {}
    if config is not None:
        from .anchors import check_anchors
        from .config import check_config, config_splits

        own = {split.annotations.absolute() for _, split in config_splits(config, list(given))}
        named = folder is None and own >= {part.split.annotations for part in parts}
        findings += check_config(config, {part.name: part.table for part in parts}, defaults=named)
        if parts:
            problems, anchors = check_anchors(config, parts[0].table, parts[0].name)
            findings += problems
    if parts and parts[0].name == 'train':
        table = parts[0].table
        loader = {} if config is None else config.get('train_dataloader') or {}
        filters = innermost(loader).get('filter_cfg') or {}
        left = left_out(table, [c['name'] for c in table.categories], filters.get('min_size', 0))
    return Report(ranked(findings), parts, anchors, left)


def _read_part(
    name: str, root: Path | None, annotations: Path, images: Path | None
) -> tuple[Part, list[Finding]]:
    table, findings = survey(annotations)
    findings = [replace(finding, split=name) for finding in findings]
    try:
        folder = find_images(name, root, annotations, images, table.files)
    except UserError as error:
        folder = images or annotations.parent
        findings += found('wrong image folder', name, [str(error)])
    return Part(name, Split(annotations, folder), table, [None] * len(table.files)), findings


def _check_files(part: Part, quick: bool, jobs: int, progress: bool) -> list[Finding]:
    """Look for the image files of a split and, unless ``quick``, open them to fill in its facts."""
    table, folder = part.table, part.split.images
    listing: dict[Path, set[str]] = {}
    exist = [is_there(folder, file, listing) for file in table.files]
    findings = []
    if any(exist):  # else the folder is wrong, which is a finding of its own
        lost = [table.image_place(index) for index, exists in enumerate(exist) if not exists]
        findings = found('missing file', part.name, lost)
    if quick:
        return findings + tagged_images(table, part.name, folder)
    present = [index for index, exists in enumerate(exist) if exists]
    opened = open_images([folder / table.files[index] for index in present], jobs, progress)
    for index, facts in zip(present, opened):
        part.facts[index] = facts
    return findings + check_images(table, part.name, part.facts)


def compare_classes(train: Table, val: Table) -> list[Finding]:
    """List how the classes of val differ from those of train."""
    ours, theirs = (
        {t.categories[n]['name']: t.categories[n]['id'] for n in t.classes()} for t in (train, val)
    )
    # The name of a group may have boxes in one of them only.
    train_names, val_names = ({category['name'] for category in t.categories} for t in (train, val))
    used = set(val.used())
    unknown = [repr(name) for name, number in theirs.items() if name not in ours and number in used]
    common = [name for name in ours if name in theirs]
    differ = [f'{name!r} is only in train' for name in ours if name not in val_names]
    differ += [f'{name!r} is only in val' for name in theirs if name not in train_names]
    differ += [
        f'{name!r} has the id {ours[name]} in train, {theirs[name]} in val'
        for name in common
        if ours[name] != theirs[name]
    ]
    if not differ and common != [name for name in theirs if name in ours]:
        differ = ['the order differs']
    return found('class unknown in train', '', unknown) + found('classes differ', '', differ)

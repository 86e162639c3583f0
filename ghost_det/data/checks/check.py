"""The check of a data set before a training: what is wrong with it, where, how to fix it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.config.query import innermost
from ghost_det.data.annotations import survey
from ghost_det.data.dataset import Split, shared_images
from ghost_det.data.layouts import find_images, locate
from ghost_det.data.table import Table, is_there, left_out, reasons
from ghost_det.errors import UserError
from ghost_det.utils.text import plural

from .findings import SEVERITIES, SHOWN, Finding, found, of_severity, printable, ranked
from .images import Facts, check_images, common_images, open_images, tagged_images

if TYPE_CHECKING:
    from .anchors import Coverage


@dataclass(frozen=True)
class Part:
    """A split as it was checked; ``facts`` of its images are ``None`` where they were not opened."""

    name: str
    split: Split
    table: Table
    facts: list[Facts | None]

    def counts(self) -> str:
        """Say how much is in it."""
        parts = (self.table.files, 'image'), (self.table.boxes, 'box'), (self.table.classes(), 'class')
        return ', '.join(plural(len(entries), noun) for entries, noun in parts)


@dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
        findings: the gravest first.
        parts: the splits that could be read.
        coverage: lines on the anchors of the config, empty without one.
        reach: the shares of boxes that they reach, where that can be said.
        left: how many boxes of train mmdet does not train on, by reason.
    """

    findings: list[Finding]
    parts: list[Part]
    coverage: list[str] = field(default_factory=list)
    reach: Coverage | None = None
    left: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """Those that stop a training or spoil it."""
        return of_severity(self.findings, 'error')

    def __str__(self) -> str:
        lines = [
            printable(f'{part.name:<6}{part.split.annotations}, images in {part.split.images}: ')
            + part.counts()
            for part in self.parts
        ]
        if self.parts and self.parts[0].name == 'train':
            total = len(self.parts[0].table.boxes)
            used = total - sum(self.left.values())
            lines.append(f'mmdet trains on {used:,} of {total:,} boxes{reasons(self.left)}')
        for finding in self.findings:
            at = f' in {finding.split}' if finding.split else ''
            lines += ['', f'{finding.severity}: {finding.kind}, {finding.count}{at}: {finding.what}']
            lines += [f'    {place}' for place in finding.where]
            if finding.count > len(finding.where):
                lines.append(f'    and {finding.count - len(finding.where)} more')
            lines.append(f'  fix: {finding.mend}')
        counts = [(len(of_severity(self.findings, name)), name) for name in SEVERITIES]
        summary = ', '.join(plural(number, name) for number, name in counts if number)
        return '\n'.join([*lines, '', *self.coverage, f'found: {summary or "nothing"}'])

    def to_dict(self) -> dict[str, Any]:
        """Return it as json has it."""
        return {
            'findings': [asdict(finding) for finding in self.findings],
            'splits': {
                part.name: {
                    'annotations': str(part.split.annotations),
                    'folder': str(part.split.images),
                    'images': len(part.table.files),
                    'boxes': len(part.table.boxes),
                    'categories': len(part.table.classes()),
                }
                for part in self.parts
            },
            'left_out_of_training': self.left,
            'anchors': self.coverage,
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
    """Look for problems in a data set; nothing is changed.

    Args:
        folder: ``'sample'``, or a folder in one of `ghost_det.data.layouts.LAYOUTS`.
        train_ann: training annotations, where ``folder`` does not lead to them.
        train_images: folder of the training images.
        val_ann: validation annotations.
        val_images: folder of the validation images.
        config: of a detector, to compare its classes and anchors with the data.
        quick: do not open images, only see that they are there.
        jobs: processes that open images; all cores by default.
        progress: show a bar on a terminal.
        val_share: the part of train that becomes val where there is none; 0.2 by default.

    Raises:
        UserError: there are no annotations to check.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f'--jobs {jobs}: a number from 1 up')
    given = {'train': (train_ann, train_images), 'val': (val_ann, val_images)}
    root, known, notes = locate(folder, given, val_share)
    findings = found('val was chosen', '', notes)
    parts: list[Part] = []
    for name in given:
        if name in known:
            readable, faults = _read(name, root, *known[name])
            parts += readable
            findings += faults
        else:
            findings += found('missing split', '', [name])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    findings += _look_for_images(parts, quick, jobs or cores, progress)
    if [part.name for part in parts] == ['train', 'val']:
        findings += compare([part.table for part in parts])
        # All of one being all of the other is on purpose, to see whether a network can learn it.
        same = len({(part.split.images, *sorted(part.table.files)) for part in parts}) == 1
        if quick:
            shared = shared_images(parts[0].split, parts[1].split)
        else:
            common = common_images([part.table for part in parts], [part.facts for part in parts])
            shared = [parts[0].table.image_place(index) for index in common]
        findings += found('image in both splits', '', shared, severity='warning' if same else None)
    lines: list[str] = []
    reach = None
    if config is not None:
        from .anchors import ENOUGH, check_anchors
        from .config import check_config, config_splits

        own = {split.annotations.absolute() for _, split in config_splits(config, list(given))}
        named = folder is None and own >= {part.split.annotations for part in parts}
        findings += check_config(config, {part.name: part.table for part in parts}, defaults=named)
        if parts:
            lines, reach = check_anchors(config, parts[0].table)
        if reach is not None and any(reach.boxes) and reach.share < ENOUGH:
            findings += found('few anchors fit', parts[0].name, [reach.line().strip()])
    left: dict[str, int] = {}
    if parts and parts[0].name == 'train':
        table = parts[0].table
        loader = {} if config is None else config.get('train_dataloader') or {}
        filters = innermost(loader).get('filter_cfg') or {}
        names = [category['name'] for category in table.categories]
        left = left_out(table, names, filters.get('min_size', 0))
    return Report(ranked(findings), parts, lines, reach, left)


def _read(
    name: str, root: Path | None, annotations: Path, images: Path | None
) -> tuple[list[Part], list[Finding]]:
    try:
        table, faults = survey(annotations)
    except UserError as error:
        return [], found('wrong json', name, [str(error)])
    findings = [replace(fault, split=name) for fault in faults]
    try:
        folder = find_images(name, root, annotations, images, table.files)
    except UserError as error:
        folder = images or annotations.parent
        findings += found('wrong image folder', name, [str(error)])
    return [Part(name, Split(annotations, folder), table, [])], findings


def _look_for_images(parts: Sequence[Part], quick: bool, jobs: int, progress: bool) -> list[Finding]:
    """Look for the files, and open them if asked; their facts go into the parts."""
    findings: list[Finding] = []
    listing: dict[Path, set[str]] = {}
    present: list[tuple[Part, int]] = []
    for part in parts:
        table = part.table
        here = [is_there(part.split.images, file, listing) for file in table.files]
        lost = [index for index, there in enumerate(here) if not there]
        if any(here):  # else their folder is wrong, which is a finding of its own
            findings += found('missing file', part.name, map(table.image_place, lost), len(lost))
        part.facts[:] = [None] * len(here)
        present += [(part, index) for index, there in enumerate(here) if there]
    if quick:
        return sum((tagged_images(p.table, p.name, p.split.images) for p in parts), findings)
    paths = [part.split.images / part.table.files[index] for part, index in present]
    for (part, index), facts in zip(present, open_images(paths, jobs, progress)):
        part.facts[index] = facts
    return findings + [each for part in parts for each in check_images(part.table, part.name, part.facts)]


def compare(tables: Sequence[Table]) -> list[Finding]:
    """List how the classes of the second table, val's, differ from those of train."""
    train, val = (
        {category['name']: category['id'] for category in (t.categories[index] for index in t.classes())}
        for t in tables
    )
    used = set(tables[1].used())
    strange = [repr(name) for name, number in val.items() if name not in train and number in used]
    findings = found('class unknown in train', '', strange)
    # A group's name may have boxes in one of them only.
    in_train, in_val = ({category['name'] for category in table.categories} for table in tables)
    differ = [f'{name!r} is only in train' for name in train if name not in in_val]
    differ += [f'{name!r} is only in val' for name in val if name not in in_train]
    orders = [name for name in train if name in val], [name for name in val if name in train]
    if not differ and orders[0] != orders[1]:
        first = next((a, b) for a, b in zip(*orders) if a != b)
        differ.append(f'another order: {first[0]!r} in train where val has {first[1]!r}')
    differ += [
        f'{name!r} has the id {number} in train, {val[name]} in val'
        for name, number in train.items()
        if name in val and val[name] != number
    ]
    return findings + found('classes differ', '', differ[: 2 * SHOWN], len(differ))

"""The check of a data set before a training: what is wrong with it, where, how it is mended."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..annotations import load
from ..data import Split, data_root, find_annotations, find_images
from ..errors import UserError
from .anchors import ENOUGH, Coverage, check_anchors
from .configured import check_config, config_splits
from .findings import SEVERITIES, SHOWN, Finding, found, of_severity, printable, ranked
from .images import Facts, check_images, common_images, open_images
from .table import Table, is_there


@dataclass(frozen=True)
class Part:
    """A split as it was checked; ``facts`` of its images are ``None`` where they were not opened."""

    name: str
    split: Split
    table: Table
    facts: list[Facts | None]


@dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
        findings: the gravest first.
        parts: the splits that could be read.
        coverage: lines on the anchors of the config, empty without one.
        reach: the shares of boxes that they reach, where that can be said.
    """

    findings: list[Finding]
    parts: list[Part]
    coverage: list[str] = field(default_factory=list)
    reach: Coverage | None = None

    @property
    def errors(self) -> list[Finding]:
        """Those that stop a training or spoil it."""
        return of_severity(self.findings, 'error')

    def __str__(self) -> str:
        lines = [
            printable(f'{part.name:<6}{part.split.annotations}, images in {part.split.images}: ')
            + f'{len(part.table.files)} images, {len(part.table.boxes)} boxes, '
            f'{len(part.table.categories)} categories'
            for part in self.parts
        ]
        for finding in self.findings:
            at = f' in {finding.split}' if finding.split else ''
            lines += ['', f'{finding.severity}: {finding.kind}, {finding.count}{at}: {finding.what}']
            lines += [f'    {place}' for place in finding.where]
            if finding.count > len(finding.where):
                lines.append(f'    and {finding.count - len(finding.where)} more')
            lines.append(f'  mend: {finding.mend}')
        counts = [(len(of_severity(self.findings, name)), name) for name in SEVERITIES]
        summary = ', '.join(f'{count} {name}{"s" * (count > 1)}' for count, name in counts if count)
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
                    'categories': len(part.table.categories),
                }
                for part in self.parts
            },
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
) -> Report:
    """Look for mistakes in a data set; nothing is changed.

    Args:
        folder: ``'sample'``, or a folder in COCO's, Roboflow's, Pascal VOC's or YOLO's layout.
        train_ann: training annotations, where ``folder`` does not lead to them.
        train_images: folder of the training images.
        val_ann: validation annotations.
        val_images: folder of the validation images.
        config: of a detector, to compare its classes and anchors with the data.
        quick: do not open images, only see that they are there.
        jobs: processes that open images; all cores by default.
        progress: show a bar on a terminal.

    Raises:
        UserError: there are no annotations to check.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f'--jobs {jobs}: a number from 1 up')
    root = data_root(folder)
    given = {'train': (train_ann, train_images), 'val': (val_ann, val_images)}
    findings: list[Finding] = []
    parts: list[Part] = []
    lost: list[UserError] = []
    for name, (path, images) in given.items():
        try:
            path = find_annotations(name, root, path)
        except UserError as error:
            if path is not None:
                raise
            lost.append(error)
            findings += found('missing split', '', [name])
            continue
        readable, faults = _read(name, root, path, images)
        parts += readable
        findings += faults
    if len(lost) == len(given):
        raise lost[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    findings += _look_for_images(parts, quick, jobs or cores, progress)
    if [part.name for part in parts] == ['train', 'val']:
        findings += compare([part.table for part in parts])
        if not quick and parts[0].split != parts[1].split:
            common = common_images([part.table for part in parts], [part.facts for part in parts])
            places = (parts[0].table.image_place(index) for index in common)
            findings += found('image in both splits', '', places, len(common))
    lines: list[str] = []
    reach = None
    if config is not None:
        categories = {part.name: part.table.categories for part in parts}
        own = {split.annotations.absolute() for _, split in config_splits(config, list(given))}
        named = folder is None and own >= {part.split.annotations for part in parts}
        findings += check_config(config, categories, defaults=named)
        if parts:
            lines, reach = check_anchors(config, parts[0].table)
        if reach is not None and any(reach.boxes) and reach.share < ENOUGH:
            findings += found('few anchors fit', parts[0].name, [reach.line().strip()])
    return Report(ranked(findings), parts, lines, reach)


def _read(
    name: str, root: Path | None, annotations: Path, images: Path | None
) -> tuple[list[Part], list[Finding]]:
    try:
        _, table, findings = load(annotations, name)
    except UserError as error:
        return [], found('wrong json', name, [str(error)])
    try:
        folder = find_images(name, root, annotations, images, table.files)
    except UserError:
        folder = images or annotations.parent
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
        findings += found('missing file', part.name, map(table.image_place, lost), len(lost))
        part.facts[:] = [None] * len(here)
        present += [(part, index) for index, there in enumerate(here) if there]
    if quick:
        return findings
    paths = [part.split.images / part.table.files[index] for part, index in present]
    for (part, index), facts in zip(present, open_images(paths, jobs, progress)):
        part.facts[index] = facts
    return findings + [each for part in parts for each in check_images(part.table, part.name, part.facts)]


def compare(tables: Sequence[Table]) -> list[Finding]:
    """List how the classes of val differ from those of train.

    Args:
        tables: of train and val.
    """
    train, val = ({c['name']: c['id'] for c in t.categories if c['name'] not in t.groups()} for t in tables)
    used = set(tables[1].used())
    strange = [repr(name) for name, number in val.items() if name not in train and number in used]
    findings = found('class unknown in train', '', strange)
    differ = [f'{name!r} is in train alone' for name in train if name not in val]
    differ += [f'{name!r} is in val alone' for name in val if name not in train]
    if not differ and list(train) != list(val):
        first = next((a, b) for a, b in zip(train, val) if a != b)
        differ.append(f'another order: {first[0]!r} in train where val has {first[1]!r}')
    differ += [
        f'{name!r} has the id {number} in train, {val[name]} in val'
        for name, number in train.items()
        if name in val and val[name] != number
    ]
    return findings + found('classes differ', '', differ[: 2 * SHOWN], len(differ))

"""The check at the start of each training: annotations, and that every image exists."""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from .annotations import ALIGNED, refuse_faults, survey
from .findings import Finding, found
from .image_facts import header, size_kind
from .layouts import Split, is_there, misplaced
from .table import Table

HEADERS = 5000  # are read, of each split
TAGGED = re.compile(rb'\A(II|MM)|Exif\0\0|eXIf')  # the start of files that may have an orientation


def quick_check(
    splits: Sequence[tuple[str, Split]],
    fixed: Sequence[str] = (),
    more: Sequence[tuple[Path, Finding]] = (),
) -> list[Finding]:
    """Check annotations, and that every image exists, without decoding any; return warnings.

    Kinds of problems that are ``fixed`` do not matter; without any, `ALIGNED` are errors. ``more`` are pairs
    of annotation file and finding, of other checks. Raises a `UserError` that lists the errors.
    """
    faults = [*more]
    listing: dict[Path, set[str]] = {}
    for name, split in splits:
        table, findings = survey(split.annotations)
        lost = [file for file in table.files if not is_there(split.images, file, listing)]
        missing = found('missing file', '', (str(split.images / file) for file in lost), len(lost))
        if lost and len(lost) == len(table.files):
            where = misplaced(name, split.annotations, split.images, lost)
            missing = found('wrong image folder', '', [where])
        for fault in (*findings, *missing, *tagged_images(table, name, split.images)):
            severity = 'error' if fault.kind in ALIGNED and not fixed else fault.severity
            if fault.kind not in fixed:
                faults.append((split.annotations, replace(fault, split=name, severity=severity)))
    refuse_faults(faults)
    train, val = ([split for each, split in splits if each == name] for name in ('train', 'val'))
    common = [file for first in train for second in val for file in shared_images(first, second)]
    # Not an error here, since some train on what they measure to see whether a network can learn it.
    shared = found('image in both splits', '', common, severity='warning')
    return [*shared, *(fault for _, fault in faults if fault.severity == 'warning')]


def tagged_images(table: Table, split: str, folder: Path) -> list[Finding]:
    """Return the finding of images that EXIF turns against their annotated size, by `HEADERS` headers."""
    places = []
    for index in range(0, len(table.files), -(-len(table.files) // HEADERS) or 1):
        path = folder / table.files[index]
        width, height = table.sizes[index].tolist()
        try:
            if not path.is_file():  # opening a pipe would block
                continue
            with path.open('rb') as file:
                if not TAGGED.search(file.read(4096)):
                    continue
                with Image.open(file) as image:
                    problems = size_kind(header(image), (width, height))
        except Exception:  # decoders raise anything on damaged files, which are found when all are opened
            continue
        places += [f'{table.image_place(index)}: {what}' for kind, what in problems if 'against' in kind]
    return found('EXIF against boxes', split, places)


def shared_images(train: Split, val: Split) -> list[str]:
    """Return the images of train that are in val: the same file, or one of the same name and content."""
    named: dict[str, list[Path]] = defaultdict(list)
    for file in survey(val.annotations).table.files:
        named[os.path.basename(file)].append(val.images / file)
    files = survey(train.annotations).table.files
    return [f for f in files if any(_same(train.images / f, o) for o in named[os.path.basename(f)])]


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second) or (
            first.stat().st_size > 0 and filecmp.cmp(first, second, shallow=False)
        )
    except (OSError, ValueError):  # no file system has such names
        return False

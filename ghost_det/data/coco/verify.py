"""Comparing a copy of COCO with the published one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import sha256
from ghost_det.utils.threads import ordered

from .catalog import COCO, Catalog, Part

SHOWN = 10  # names of images for each kind of problem


@dataclass(frozen=True)
class SplitState:
    """The problems of a split."""

    part: Part
    annotations: str = ''  # the problem of the annotation file, if any; the images are not checked then
    images: dict[str, str] = field(default_factory=dict)  # the problems of images, by file name
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # (width, height), by file name
    boxes: int = 0

    @property
    def intact(self) -> bool:
        """Whether there are no problems."""
        return not self.annotations and not self.images

    def lines(self, root: Path) -> list[str]:
        """Describe it, with the first names for each kind of problem."""
        if self.annotations:
            return [f'{root / self.part.annotations}: {self.annotations}']
        if not self.images:
            return [f'{self.part.name}: intact: {len(self.sizes):,} images, {self.boxes:,} boxes']
        lines = []
        for problem in dict.fromkeys(self.images.values()):
            names = sorted(name for name, its in self.images.items() if its == problem)
            more = ' ...' if len(names) > SHOWN else ''
            shown = ', '.join(names[:SHOWN])
            lines.append(f'{root / self.part.name}: {len(names):,} {problem}: {shown}{more}')
        return lines


def verify(root: Path, splits: Sequence[str], jobs: int = 8, catalog: Catalog = COCO) -> list[SplitState]:
    """Compare a copy with the published one: annotations by hash, images by their headers and ends."""
    if not root.is_dir():
        raise UserError(f'--root {root}: no such folder; without --verify, it is created')
    try:
        return [examine(root, catalog.parts[split], jobs) for split in splits]
    except OSError as error:
        raise disk_error(error, root) from None


def disk_error(error: OSError, folder: Path) -> UserError:
    """Return the message for a file system's error in a folder."""
    return UserError(
        f'{error.filename or folder}: cannot be read or written ({error.strerror or error}); '
        'what was downloaded is kept: run this again to resume'
    )


def examine(root: Path, part: Part, jobs: int) -> SplitState:
    """Find the problems of a split."""
    path = root / part.annotations
    if not path.is_file():
        return SplitState(part, 'missing')
    digest = sha256(path)
    if digest != part.sha256:
        return SplitState(part, f'not the published file: expected SHA-256 {part.sha256}, got {digest}')
    content = read_without_boxes(path)
    sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
    problems = ordered(lambda name: image_problem(root / part.name / name, sizes[name]), sizes, jobs)
    bar = tqdm(problems, f'checking {part.name}/', len(sizes), unit='image', disable=None)
    wrong = {name: problem for name, problem in zip(sizes, bar) if problem}
    return SplitState(part, '', wrong, sizes, len(content['annotations']))


def read_without_boxes(path: Path) -> Any:
    """Return an annotation file's content with only the ``image_id`` of each box, to save memory."""
    with path.open('rb') as file:
        return json.load(file, object_hook=lambda entry: entry['image_id'] if 'bbox' in entry else entry)


def image_problem(path: Path, size: tuple[int, int]) -> str | None:
    """Return the problem of an image of (width, height), if any; it is decoded only if it has no JPEG end."""
    try:
        with path.open('rb') as file, Image.open(file) as image:
            if image.size != size and ImageOps.exif_transpose(image).size != size:
                return 'not of the annotated size'
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1024))
            if image.format == 'JPEG' and b'\xff\xd9' not in file.read():
                file.seek(0)
                with Image.open(file) as again:
                    again.load()
    except FileNotFoundError:
        return 'missing'
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return 'truncated' if 'truncated' in str(error) else 'not a readable image'
    return None

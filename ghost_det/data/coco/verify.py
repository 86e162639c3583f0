"""Comparing a copy of COCO with what was published."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import sha256

from .catalog import COCO, Catalogue, Part
from .download import disk_fault, run_all

SHOWN = 10  # faults of each kind
_TAIL = 1024


@dataclass
class State:
    """What is wrong with a split.

    Attributes:
        part: which one.
        annotations: the annotation file's fault, if it has one.
        images: the faults of images, by file name.
        sizes: (width, height) of each image that the annotations list.
        boxes: how many they have.
    """

    part: Part
    annotations: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    boxes: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.annotations and not self.images

    def lines(self, root: Path) -> list[str]:
        """Say it, the first of each kind by name."""
        counts = f'{len(self.sizes):,} images, {self.boxes:,} boxes'
        if self.whole:
            return [f'{self.part.name}: whole: {counts}']
        said = [f'{root / self.part.annotations}: {self.annotations}'] if self.annotations else []
        for fault, count in Counter(self.images.values()).most_common():
            names = sorted(name for name, its in self.images.items() if its == fault)
            more = ' ...' if count > SHOWN else ''
            said.append(f'{root / self.part.name}: {count:,} {fault}: {", ".join(names[:SHOWN])}{more}')
        return said


def verify(root: Path, splits: Sequence[str], jobs: int = 8, catalogue: Catalogue = COCO) -> list[State]:
    """Compare a copy with what was published: annotations by their hash, images by their headers and ends.

    Args:
        root: the copy, as ``data/coco``.
        splits: ``'train'``, ``'val'``.
        jobs: threads.
        catalogue: what was published.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f'--root {root}: no such folder; without --verify, it is made')
    return [examine(root, catalogue.parts[split], jobs) for split in splits]


def examine(root: Path, part: Part, jobs: int) -> State:
    """Find out what is wrong with a split."""
    state = State(part)
    path = root / part.annotations
    if not path.is_file():
        state.annotations = 'missing'
        return state
    try:
        found = sha256(path)
        state.sizes, state.boxes = _contents(path)
    except OSError as error:
        raise disk_fault(error, root) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        state.annotations = 'not the published file: not whole, or no COCO annotations'
        return state
    if found != part.sha256:
        state.annotations = (
            f'not the published file: {len(state.sizes):,} images and {state.boxes:,} boxes, '
            f'{part.images:,} and {part.boxes:,} are wanted; SHA-256 {found}, {part.sha256} is wanted'
        )
    folder = root / part.name

    def look(name: str) -> None:
        fault = image_fault(folder / name, state.sizes[name])
        if fault:
            state.images[name] = fault
        bar.update()

    with tqdm(total=len(state.sizes), desc=f'looking at {part.name}/', unit='image', disable=None) as bar:
        run_all(look, list(state.sizes), jobs)
    return state


def _contents(path: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """Return the images' sizes by name, and the number of boxes."""
    content = read_light(path)
    sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
    return sizes, len(content['annotations'])


def read_light(path: Path) -> Any:
    """Return an annotation file's content with no more of each box than the ``image_id`` that it is of."""
    with path.open('rb') as file:
        return json.load(file, object_hook=lambda entry: entry['image_id'] if 'bbox' in entry else entry)


def image_fault(path: Path, size: tuple[int, int]) -> str | None:
    """Say what is wrong with an image file, if anything is, without decoding it unless its end looks odd.

    Args:
        path: the file.
        size: (width, height) that it should have.
    """
    try:
        with path.open('rb') as file, Image.open(file) as image:
            found = image.size
            if found != size and ImageOps.exif_transpose(image).size != size:
                return 'of another size than the annotations say'
            if image.format == 'JPEG':
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                if b'\xff\xd9' not in file.read():  # the end marker, a pair that coded data never has
                    file.seek(0)
                    with Image.open(file) as again:
                        again.load()
    except FileNotFoundError:
        return 'missing'
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return 'truncated' if 'truncated' in str(error) else 'no image, or not readable'
    return None

"""What Pascal VOC and YOLO data sets have in common."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ghost_det.utils.files import decode
from ghost_det.utils.images import SUFFIXES, visible

SPLITS = {'train': ('train',), 'val': ('val', 'valid', 'validation', 'test')}
WORDS = tuple(chain(*SPLITS.values()))
MAX_LABEL_BYTES = 2**24
Pair = tuple[Path, Path]
"""An image and its label file."""
Read = tuple[list[tuple[Any, list[float], int]], list[tuple[str, str]]]
"""Class, corners and crowd of each object; and what is wrong, with its kind of `annotations.CONVERTED`."""
Reader = Callable[[Path, tuple[int, int], int], Read]
"""Of a label file, and the size and the orientation that its image is loaded with."""


@dataclass(frozen=True)
class Layout:
    """A data set that is not COCO's: pairs of image and label file for each split."""

    kind: str  # 'voc' or 'yolo'
    splits: dict[str, list[Pair]]  # of those named in a list, files may be missing
    classes: list[str] | None = None  # the names, where they are written down
    listed: bool = False  # images must have a label file; else one without is of background
    orphans: dict[str, list[Path]] = field(default_factory=dict)  # of each split, label files without image
    note: str = ''  # where val comes from, if it is none of the data set's own
    keypoints: tuple[int, int] | None = None  # YOLO's kpt_shape, where the yaml has it; (0, 0) for polygons
    unused: tuple[str, ...] = ()  # other data in the folder, of which nothing is read


def by_folder(pairs: dict[str, Pair]) -> dict[str, list[Pair]]:
    """Sort files into splits where the first folder of each is named as one; else all are of train."""
    named = {key.partition('/')[0].lower() for key in pairs} <= {*WORDS}
    parts: dict[str, list[Pair]] = {}
    for key, pair in pairs.items():
        parts.setdefault(key.partition('/')[0].lower() if named else 'train', []).append(pair)
    return parts


def choose_splits(root: Path, parts: dict[str, list[Pair]]) -> tuple[dict[str, list[Pair]], str]:
    """Return train, and as val the likeliest of the others; with a note where that is test."""
    val = next((word for word in SPLITS['val'] if parts.get(word)), '')
    splits = {name: parts[word] for name, word in (('train', 'train'), ('val', val)) if parts.get(word)}
    why = 'val is empty' if {*SPLITS['val'][:-1]} & parts.keys() else 'there is no val'
    return splits, f'{root}: {why}: test is taken as val' if val == 'test' else ''


def images_in(folder: Path, pattern: str = '*') -> list[Path]:
    """Return the images that match a pattern in a folder."""
    return [path for path in visible(folder, pattern) if path.suffix.lower() in SUFFIXES]


def read_text(file: Path) -> str:
    """Read a file of labels; raises `OSError` or `ValueError`."""
    check_length(file)
    return decode(file.read_bytes())


def check_length(label: Path) -> None:
    """Refuse files that are too large for labels, and what is no file, with a `ValueError`."""
    state = label.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError('expected a file, got a pipe, a device or a folder')  # a pipe would be waited for
    if state.st_size > MAX_LABEL_BYTES:
        raise ValueError('over 16 MiB, which no file of labels is')

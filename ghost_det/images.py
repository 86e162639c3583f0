"""Where images are; needs neither torch nor OpenCV."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import UserError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


def find_images(paths: Iterable[Path], skip: Callable[[Path], bool]) -> list[Path]:
    """Return files as they are, and what looks like an image in folders, to any depth, sorted; each once.

    Args:
        paths: files and folders.
        skip: tells of a file in a folder whether it is left out, as the pictures that an earlier run made.

    Raises:
        UserError: a path does not exist, or a folder has no images.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f'{path}: no such file or folder')
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES and not p.is_dir())
            files = [file for file in files if not skip(file)]
        if not files:
            raise UserError(f'{path}: no images in this folder; looked for {" ".join(SUFFIXES)}')
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())

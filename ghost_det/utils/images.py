"""Where images are; needs neither torch nor OpenCV."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from ghost_det.errors import UserError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


def is_hidden(path: str | PurePath) -> bool:
    """Tell whether a file, or a folder above it, is hidden, as ``._*`` of macOS: never data."""
    return any(part.startswith('.') and part not in ('.', '..') for part in PurePath(path).parts)


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern in a folder and is not hidden, sorted.

    ``**/NAME`` are files to any depth, also where links to folders lead.
    """
    if pattern.startswith('**/') and folder.is_dir():
        return sorted(Path(path) for path in walk(folder) if fnmatchcase(path, f'*/{pattern[3:]}'))
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.relative_to(folder)))


def walk(folder: str | Path, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files in a folder, to any depth; hidden ones are left out.

    Links to folders are followed, but not back to one of ``above``, the real paths that led here.

    Raises:
        UserError: a folder cannot be read.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f'{folder}: cannot be read ({error.strerror})') from None
    for entry in entries:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from walk(entry.path, (*above, here))
        else:
            yield entry.path


def find_images(paths: Iterable[Path], skip: Callable[[Path], bool]) -> list[Path]:
    """Return files as they are, and what looks like an image in folders, to any depth, sorted; each once.

    Files in folders that ``skip`` tells of are left out, as the pictures that an earlier run made.

    Raises:
        UserError: a path does not exist, a folder cannot be read or has no images.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f'{path}: no such file or folder')
        files = [path]
        if path.is_dir():
            names = (name for name in walk(path) if name.lower().endswith(SUFFIXES))
            files = sorted(file for file in map(Path, names) if not skip(file))
        if not files:
            raise UserError(f'{path}: no images in this folder; looked for {" ".join(SUFFIXES)}')
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())

"""Images: found in folders, read as arrays, encoded."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from ghost_det.errors import UserError

from .files import explain_os_error, kind_of_file

Image = NDArray[np.uint8]
"""``[height, width, 3]``, in OpenCV's order (BGR)."""
MAX_PIXELS = 100_000_000
"""Larger images are not decoded: a small file can claim any size."""
MAX_BYTES = 2**30
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


def is_hidden(path: str | PurePath) -> bool:
    """Return whether a file, or a folder above it, is hidden: ``._*`` of macOS is never data."""
    return any(part.startswith('.') and part not in ('.', '..') for part in PurePath(path).parts)


def visible(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern in a folder and is not hidden, sorted."""
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.relative_to(folder)))


def walk(folder: str | Path, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files in a folder at any depth, except for hidden ones.

    Links to folders are followed, but not back to one of ``above``, the real paths that led here.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    with explain_os_error(folder, 'read'), os.scandir(folder) as listing:
        entries = [entry for entry in listing if not is_hidden(entry.name)]
    for entry in entries:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from walk(entry.path, (*above, here))
        else:
            yield entry.path


def images_in(folder: Path) -> list[Path]:
    """Return the images in a folder at any depth, sorted."""
    return sorted(Path(name) for name in walk(folder) if name.lower().endswith(SUFFIXES))


def find_images(paths: Iterable[Path], out: Path | None = None) -> list[Path]:
    """Return the given files, and the images in the given folders at any depth, sorted; each once.

    In folders, images in ``out`` are ignored: they are pictures of an earlier run.
    """
    inside, real = out and out.resolve(), functools.cache(Path.resolve)
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f'{path}: no such file or folder')
        files = [path]
        if path.is_dir():
            files = images_in(path)
            if inside is not None:
                files = [file for file in files if not real(file.parent).is_relative_to(inside)]
        if not files:
            raise UserError(f'{path}: no images in this folder; looked for {" ".join(SUFFIXES)}')
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def read_image(path: Path) -> Image:
    """Return an image as mmcv loads it: 8-bit BGR, turned by EXIF as OpenCV does, without transparency."""
    if not path.is_file():  # opening a pipe would block
        raise UserError(f'{path}: expected an image, got {kind_of_file(path)}')
    with explain_os_error(path, 'read'):
        content = path.read_bytes()
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> Image:
    """Return the image in a file's content, as `read_image` does; ``name`` is for messages."""
    import cv2

    if not content or len(content) > MAX_BYTES:
        raise UserError(f'{name}: expected an image, got {"over 1 GiB" if content else "an empty file"}')
    reason = 'damaged, or of a format that OpenCV does not read'
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        image = None
        if 'MAX_IMAGE' in str(error):
            reason = f'over {MAX_PIXELS // 10**6} megapixels'
    if image is None:
        raise UserError(f'{name}: no image that can be decoded: {reason}')
    return np.asarray(image, np.uint8)


def picture_name(path: Path) -> str:
    """Return the name for a picture of an image: its own where OpenCV writes that format well."""
    return path.name if path.suffix.lower() in ('.jpg', '.jpeg', '.png') else f'{path.name}.jpg'


def encode_image(image: Image, suffix: str) -> bytes:
    """Return an image as the content of a file with this suffix."""
    import cv2

    encoded, content = cv2.imencode(suffix.lower(), image)
    if not encoded:
        raise UserError(f'{image.shape[1]} x {image.shape[0]} px is too large for {suffix}')
    return content.tobytes()

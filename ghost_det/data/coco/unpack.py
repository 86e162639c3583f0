"""Unpacking zip archives whose SHA-256 is the published one: no half files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Container
from pathlib import Path

from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic
from ghost_det.utils.threads import ordered

from .download import disk_error

_BLOCK = 1 << 20


def unpack(path: Path, root: Path, jobs: int, only: Container[str] | None = None) -> None:
    """Unpack a known archive, or ``only`` some of its files; those there with the right CRC are kept."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
            chosen = [info for info in files if only is None or info.filename in only]

            def unpack_one(info: zipfile.ZipInfo) -> int:
                _unpack(archive, info, root / info.filename)
                return info.file_size

            total = sum(info.file_size for info in chosen)
            with tqdm(total=total, desc=path.name, unit='B', unit_scale=True, disable=None) as bar:
                # Threads help where each new file waits for a network.
                for size in ordered(unpack_one, chosen, jobs):
                    bar.update(size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f'{path}: damaged ({error}); delete it, and run this again') from None
    except OSError as error:
        raise disk_error(error, root) from None


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    if path.is_file() and path.stat().st_size == info.file_size and _crc(path) == info.CRC:
        return
    with atomic(path) as partial, archive.open(info) as source, partial.open('wb') as file:
        while block := source.read(_BLOCK):  # no more than the declared size, whatever the data says
            file.write(block)


def _crc(path: Path) -> int:
    crc = 0
    with path.open('rb') as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc

"""Zip archives, unpacked with suspicion: nothing outside their folder, no bombs, no half files."""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Container
from pathlib import Path

from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic
from ghost_det.utils.threads import ordered

from .download import disk_error

RATIO = 50  # of a member's size to its packed size; COCO's: at most 6, of the captions
MARGIN = 1 << 20  # bytes that any member may have
_BLOCK = 1 << 20


def safe_members(archive: zipfile.ZipFile, folder: str, limit: int) -> list[zipfile.ZipInfo]:
    """Return an archive's files, after checking that all of them can be unpacked safely.

    Raises a `UserError` where one would land outside of ``folder``, is a link or encrypted, appears twice, or
    where they are a bomb: over ``limit`` bytes together.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename
        problem = _problem(info, folder, repeated=name in found)
        if problem:
            raise UserError(f'{archive.filename}: {name!r} {problem}; nothing was unpacked')
        if not info.is_dir():
            found[name] = info
    total = sum(info.file_size for info in found.values())
    if total > limit:
        raise UserError(
            f'{archive.filename}: a bomb: it unpacks to {total:,} bytes, expected at most {limit:,}; '
            'nothing was unpacked'
        )
    return list(found.values())


def _problem(info: zipfile.ZipInfo, folder: str, repeated: bool) -> str | None:
    name = info.orig_filename
    parts = name.removesuffix('/').split('/')
    if parts[0] != folder or {'', '.', '..'} & set(parts) or re.search(r'[\\:\0]', name):
        return f'does not stay in {folder}/'
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return 'is a link or a device, not a file'
    if info.flag_bits & 1:
        return 'is encrypted'
    if repeated:
        return 'appears twice'
    if info.file_size > RATIO * info.compress_size + MARGIN:
        return f'is a bomb: {info.file_size:,} bytes from {info.compress_size:,}'
    return None


def unpack(
    path: Path, root: Path, folder: str, limit: int, jobs: int, only: Container[str] | None = None
) -> None:
    """Unpack an archive, or ``only`` some of its files; files that are there with the right CRC are kept.

    Threads gain nothing on a local disk, but where each new file waits for a network. See `safe_members` for
    ``folder`` and ``limit``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = safe_members(archive, folder, limit)
            chosen = [info for info in members if only is None or info.filename in only]

            def unpack_one(info: zipfile.ZipInfo) -> int:
                _unpack(archive, info, root / info.filename)
                return info.file_size

            total = sum(info.file_size for info in chosen)
            with tqdm(total=total, desc=f'{folder}/', unit='B', unit_scale=True, disable=None) as bar:
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

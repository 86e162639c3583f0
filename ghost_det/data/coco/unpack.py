"""Zip archives, unpacked with suspicion: nothing outside their folder, no bombs, no half files."""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic

from .download import disk_fault, run_all

RATIO = 50  # of a member's size to its packed size; COCO's: at most 6, of the captions
MARGIN = 1 << 20  # bytes that any member may have
_BLOCK = 1 << 20


def members(archive: zipfile.ZipFile, folder: str, limit: int) -> list[zipfile.ZipInfo]:
    """Return an archive's files, all of which are fit to be unpacked.

    Args:
        archive: what to look at.
        folder: the one that every member must lie in, as ``'val2017'``.
        limit: bytes that all of them may have together.

    Raises:
        UserError: one would land elsewhere, is a link or encrypted, appears twice, or they are a bomb.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename
        parts = name.removesuffix('/').split('/')
        mode = info.external_attr >> 16
        fault = None
        if parts[0] != folder or {'', '.', '..'} & set(parts) or re.search(r'[\\:\0]', name):
            fault = f'does not stay in {folder}/'
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = 'is a link or a device, not a file'
        elif info.flag_bits & 1:
            fault = 'is encrypted'
        elif name in found:
            fault = 'is there twice'
        elif info.file_size > RATIO * info.compress_size + MARGIN:
            fault = f'is a bomb: {info.file_size:,} bytes from {info.compress_size:,}'
        if fault:
            raise UserError(f'{archive.filename}: {name!r} {fault}; nothing was unpacked')
        if not info.is_dir():
            found[name] = info
    total = sum(info.file_size for info in found.values())
    if total > limit:
        raise UserError(
            f'{archive.filename}: a bomb: it unpacks to {total:,} bytes, {limit:,} at most are wanted; '
            'nothing was unpacked'
        )
    return list(found.values())


def unpack(
    path: Path, root: Path, folder: str, limit: int, jobs: int, wanted: Callable[[str], bool] | None = None
) -> None:
    """Unpack an archive; a file that is there already, of the right size and CRC, is left alone.

    Args:
        path: the archive.
        root: where its folder goes.
        folder: see `members`.
        limit: see `members`.
        jobs: threads: no gain on a local disk, but where each new file waits for a network.
        wanted: says of a member's name whether to unpack it; default: all.

    Raises:
        UserError: it is damaged, unfit (see `members`), or the disk is full.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            chosen = members(archive, folder, limit)
            if wanted is not None:
                chosen = [info for info in chosen if wanted(info.filename)]
            total = sum(info.file_size for info in chosen)

            def one(info: zipfile.ZipInfo) -> None:
                _unpack(archive, info, root / info.filename)
                bar.update(info.file_size)

            with tqdm(total=total, desc=f'{folder}/', unit='B', unit_scale=True, disable=None) as bar:
                run_all(one, chosen, jobs)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f'{path}: damaged ({error}); delete it, and run this again') from None
    except OSError as error:
        raise disk_fault(error, root) from None


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

"""Unpacking zip archives with a known SHA-256: each file completely or not at all."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Container
from pathlib import Path

from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic
from ghost_det.utils.threads import ordered


def unpack(path: Path, root: Path, jobs: int, only: Container[str] | None = None) -> None:
    """Unpack an archive, or ``only`` some of its files; existing files with the right CRC are kept."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
            chosen = [info for info in files if only is None or info.filename in only]

            def unpack_one(info: zipfile.ZipInfo) -> int:
                target = root / info.filename
                same_size = target.is_file() and target.stat().st_size == info.file_size
                if not same_size or zlib.crc32(target.read_bytes()) != info.CRC:
                    with atomic(target) as partial, archive.open(info) as source, partial.open('wb') as file:
                        shutil.copyfileobj(source, file)
                return info.file_size

            total = sum(info.file_size for info in chosen)
            with tqdm(total=total, desc=path.name, unit='B', unit_scale=True, disable=None) as bar:
                # Threads help where creating a file waits for a network.
                for size in ordered(unpack_one, chosen, jobs):
                    bar.update(size)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f'{path}: damaged ({error}); delete it, and run this again') from None

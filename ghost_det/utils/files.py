"""Files that are whole or not there."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ghost_det.errors import UserError

PARTIAL = '.partial-'


def decode(data: bytes) -> str:
    """Return a text in UTF-8, or in UTF-16 where a byte order mark says so; the mark is left out.

    Raises:
        UnicodeError: it is neither.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode('utf-16' if utf16 else 'utf-8-sig')


@contextlib.contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` at the end; after an error, nothing is left of it.

    Args:
        path: the file to make; its folder is made too.
        durable: have the content on the disk before the name, so that a loss of power leaves no half file.

    Raises:
        OSError: it cannot be made; or a device is in its place, as ``/dev/null``, which root could replace.
    """
    if _is_special(path):
        raise OSError(errno.EEXIST, 'a pipe or a device is there', str(path))
    path = path.resolve()  # what a link leads to is the file that is meant
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}')  # whatever the name's length
    try:
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it; some writers make their files private
        yield partial
        partial.chmod(mode)
        if durable:
            _flush(partial)
        partial.replace(path)
        if durable:
            with contextlib.suppress(OSError):  # not every system and file system flushes folders
                _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes ``folder`` at the end; after an error, nothing is left of it.

    Where another process was faster, its folder stays.

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as scratch:
        # A folder inside: the temporary one is closed to other users and would stay so once renamed.
        built = Path(scratch) / 'set'
        built.mkdir()
        yield built
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; of the file, however large, only a block is in memory."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_writable(path: Path, option: str, read: Iterable[Path] = ()) -> None:
    """Make a file's folder, and raise a `UserError` where a long run could not write the file.

    It must not replace one of ``read``, nor be a folder or a device; ``option`` is what asks for it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{option} {path}: its folder cannot be made ({error.strerror})') from None
    if path.is_dir():
        raise UserError(f'{option} {path}: a file is wanted, this is a folder')
    if path.resolve() in {each.resolve() for each in read}:
        raise UserError(f'{option} {path}: would replace what is read; choose another name')
    if _is_special(path):
        raise UserError(f'{option} {path}: a file is wanted, this is a pipe or a device')
    if not os.access(path.parent, os.W_OK):
        raise UserError(f'{option} {path}: its folder cannot be written to')


def require_folder(folder: str | Path, option: str) -> None:
    """Make a folder, and raise a `UserError` before long work where it cannot be written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b'.')
    except OSError as error:
        raise UserError(f'{option} {folder}: cannot be written ({error.strerror})') from None

"""Files and folders: read in any encoding, written completely or not at all, checked before long work."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError

PARTIAL = '.partial-'


def decode(data: bytes) -> str:
    """Return a text in UTF-8, or in UTF-16 where a byte order mark says so; the mark is left out."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode('utf-16' if utf16 else 'utf-8-sig')


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, 16 or 32, if its text fits into half of this machine's memory."""
    try:
        if not path.is_file():
            raise UserError(f'{path}: cannot be read: expected a json file, got {_kind_of_file(path)}')
        # The bytes and their text are in memory at once, and then what they say.
        size, half = path.stat().st_size, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2
        if size > half:
            raise UserError(
                f'{path}: {size / 1e9:.1f} GB of json; this machine has memory for {half / 1e9:.1f} GB: '
                'split it'
            )
        data = path.read_bytes()
        return json.loads(data.decode(json.detect_encoding(data)))  # as pycocotools, no halves of characters
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    except json.JSONDecodeError as error:
        raise UserError(f'{path}: not json: {error.msg} in line {error.lineno}') from None
    except MemoryError:
        raise UserError(f'{path}: too large for the memory of this machine: split it') from None
    except RecursionError:
        raise UserError(f'{path}: not json that can be read: nested too deep') from None
    except UnicodeError as error:
        raise UserError(f'{path}: not json in UTF-8: {str(error)[:100]}') from None
    except ValueError:  # Python's own limit
        raise UserError(f'{path}: not json: a number of thousands of digits') from None


def _kind_of_file(path: Path) -> str:
    return 'a folder' if path.is_dir() else 'a pipe or a device' if path.exists() else 'nothing'


@contextlib.contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` at the end; after an error, nothing is left of it.

    With ``durable``, the content is on the disk before the name: a loss of power leaves no half file.
    """
    if _is_special(path):  # as /dev/null, which root could replace
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
def write_or_fail(path: Path, option: str = '') -> Iterator[Path]:
    """Yield a path to write to, as `atomic` does, or raise a `UserError`; ``option`` asks for the file."""
    try:
        with atomic(path) as partial:
            yield partial
    except OSError as error:
        name = f'{option} {path}' if option else path
        raise UserError(f'{name}: cannot be written ({error.strerror or error})') from None


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes ``folder`` at the end; after an error, nothing is left of it.

    Where another process was faster, its folder stays.
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
    if path.is_dir() or _is_special(path):
        raise UserError(f'{option} {path}: expected a file, got {_kind_of_file(path)}')
    if path.resolve() in {each.resolve() for each in read}:
        raise UserError(f'{option} {path}: would replace what is read; choose another name')
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

"""Files and folders: read in any encoding, written completely or not at all, checked before long work."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError

PARTIAL = '.partial-'


def decode(data: bytes) -> str:
    """Return a text in UTF-8, or in UTF-16 if it starts with that byte order mark; without the mark."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode('utf-16' if utf16 else 'utf-8-sig')


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, 16 or 32."""
    try:
        if not path.is_file():
            raise UserError(f'{path}: cannot be read: expected a json file, got {kind_of_file(path)}')
        data = path.read_bytes()
        return json.loads(data.decode(json.detect_encoding(data)))  # json.loads(data) allows lone surrogates
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    except json.JSONDecodeError as error:
        raise UserError(f'{path}: not json: {error.msg} in line {error.lineno}') from None
    except UnicodeError as error:
        raise UserError(f'{path}: not json in UTF-8: {str(error)[:100]}') from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number with thousands of digits
        raise UserError(f'{path}: not json: {error}') from None


def kind_of_file(path: Path) -> str:
    """Describe a path that is not a regular file."""
    return 'a folder' if path.is_dir() else 'a pipe or a device' if path.exists() else 'nothing'


@contextlib.contextmanager
def explain_os_error(name: object, what: str, advice: str = '') -> Iterator[None]:
    """Raise an error of the file system as a `UserError`: ``name`` cannot be ``'read'`` or ``'written'``."""
    try:
        yield
    except OSError as error:
        raise UserError(f'{name}: cannot be {what} ({error.strerror or error}){advice}') from None


@contextlib.contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` at the end, or is removed after an error.

    With ``durable``, the content is flushed to the disk before the rename, against a loss of power.
    """
    path = path.resolve()  # write to the target of a link
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = f'{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}'  # short, as names have a limit
    partial = path.with_name(unique + path.suffix)  # by which some writers choose a format
    try:
        partial.touch()
        mode = partial.stat().st_mode  # some writers ignore the umask and make their files private
        yield partial
        partial.chmod(mode)
        if durable:
            with partial.open('rb') as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def write_or_fail(path: Path, option: str = '') -> Iterator[Path]:
    """Yield a path to write to, as `atomic` does; raise a `UserError` that names ``option`` if that fails."""
    with explain_os_error(f'{option} {path}'.strip(), 'written'), atomic(path) as partial:
        yield partial


def write_file(path: Path, content: str | bytes, option: str = '') -> Path:
    """Write a file as `write_or_fail` does, text in UTF-8, and return its path."""
    with write_or_fail(path, option) as partial:
        partial.write_bytes(
            content.encode(errors='backslashreplace') if isinstance(content, str) else content
        )
    return path


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``folder`` at the end, or is removed after an error.

    It replaces an empty folder; one that another process has filled in the meantime stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as scratch:
        built = Path(scratch) / 'set'  # the temporary folder itself is closed to other users
        built.mkdir()
        yield built
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir() or not any(folder.iterdir()):
                raise


def cache_root() -> Path:
    """Return ``$GHOST_DET_CACHE``, else ``$XDG_CACHE_HOME/ghost_det``, else ``~/.cache/ghost_det``."""
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.environ.get('GHOST_DET_CACHE') or f'{caches}/ghost_det').expanduser().absolute()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, which ``build`` fills first if there is none; for several processes."""
    if not folder.is_dir():
        with explain_os_error(folder, 'written', '; set GHOST_DET_CACHE'), atomic_folder(folder) as built:
            build(built)
    return folder


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal, reading it block by block."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_writable(path: Path, option: str, read: Iterable[Path] = ()) -> None:
    """Make a file's folder, and raise a `UserError` if a long run could not write the file.

    It must not replace one of the files in ``read``; ``option`` is the option that names it.
    """
    require_folder(path.parent, option, path)
    if path.exists() and not path.is_file():
        raise UserError(f'{option} {path}: expected a file, got {kind_of_file(path)}')
    if path.resolve() in {each.resolve() for each in read}:
        raise UserError(f'{option} {path}: would replace an input; choose another name')


def require_folder(folder: str | Path, option: str, given: Path | None = None) -> None:
    """Make a folder; raise a `UserError` (about the ``given`` file in it) if it cannot be written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b'.')
    except OSError as error:
        is_file = given is None and isinstance(error, FileExistsError)
        why = 'expected a folder, got a file' if is_file else f'cannot be written ({error.strerror})'
        raise UserError(f'{option} {given or folder}: {why}') from None

"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PARTIAL = '.partial-'


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` at the end; after an error, nothing is left of it.

    The content reaches the disk before the name does, so that not even a loss of power leaves half a file.

    Args:
        path: the file to make; its folder is made too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}')  # whatever the name's length
    try:
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it; some writers make their files private
        yield partial
        partial.chmod(mode)
        _flush(partial)
        partial.replace(path)
        with contextlib.suppress(OSError):  # not every system and file system flushes folders
            _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

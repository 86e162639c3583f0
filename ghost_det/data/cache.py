"""The user's cache: data that is generated or converted once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ghost_det.utils.files import atomic_folder, explain_os_error


def cache_root() -> Path:
    """Return ``$GHOST_DET_CACHE``, else ``$XDG_CACHE_HOME/ghost_det``, else ``~/.cache/ghost_det``."""
    caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.environ.get('GHOST_DET_CACHE') or f'{caches}/ghost_det').expanduser().absolute()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return a folder, filled by ``build`` if it does not exist; processes may call this at the same time."""
    if not folder.is_dir():
        with explain_os_error(folder, 'written', '; set GHOST_DET_CACHE'), atomic_folder(folder) as built:
            build(built)
    return folder

"""Configs are code: said once of each that comes from elsewhere, before it runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

import mmdet

from ghost_det.engine.distributed import is_first

_OWN = Path(__file__).resolve().parents[1]


def announce(config: Path) -> None:
    """Say that a config from outside this project, mmdet and the present folder is code, once for each.

    What was said is remembered in ``$XDG_CACHE_HOME/ghost_det/configs-seen``.
    """
    path = config.resolve()
    homes = (_OWN, Path(mmdet.__file__).resolve().parent, Path.cwd().resolve())
    if any(path.is_relative_to(home) for home in homes) or not is_first():
        return
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # which the one who reads it tells
        return
    with contextlib.suppress(OSError):
        if digest in _seen().read_text(encoding='utf-8').split():
            return
    print(
        f'{config}: a config is Python code and runs as you, with all that it inherits and imports: '
        'read those of others first. (Said once of each.)',
        file=sys.stderr,
    )
    remember(digest)


def remember(digest: str) -> None:
    """Have nothing said of the config whose content has this SHA-256, as of one that was written here."""
    with contextlib.suppress(OSError):
        _seen().parent.mkdir(parents=True, exist_ok=True)
        with _seen().open('a', encoding='utf-8') as file:
            file.write(f'{digest}\n')


def _seen() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'ghost_det/configs-seen'

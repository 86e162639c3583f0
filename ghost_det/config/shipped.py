"""The configs of this project, by name; needs only the standard library."""

from __future__ import annotations

import os
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from ghost_det.errors import UserError

MMDET = 'mmdet::'
"""Prefix of the configs that mmdet ships, as in ``_base_``."""
PREFIX = 'ghost_det::'
"""Of such a config in ``_base_`` and on the command line, as ``mmdet::`` is of mmdet's."""
_INSIDE = Path(__file__).parents[1] / 'configs'
FOLDER = _INSIDE if _INSIDE.is_dir() else Path(__file__).resolve().parents[2] / 'configs'
"""Where they are: inside the package, as a wheel has them, or next to it, as a clone has them."""


def names() -> list[str]:
    """Return the names of all, without ``.py``."""
    return sorted(path.stem for path in FOLDER.glob('*.py'))


def purpose(name: str) -> list[str]:
    """Return what a config says of itself in its first lines: what it is for, and what it costs."""
    lines = (FOLDER / f'{name}.py').read_text(encoding='utf-8').splitlines()
    return [line.removeprefix('# ') for line in takewhile(lambda line: line.startswith('#'), lines)]


def find(name: str) -> Path | None:
    """Return the file of a config named ``ghost_det::NAME``, or only by NAME, with or without ``.py``.

    A file in the present folder wins over one of this project that is named only by NAME.
    """
    bare = name.removeprefix(PREFIX)
    path = Path(bare if bare.endswith('.py') else f'{bare}.py')
    if name == bare and path.is_file():
        return path
    own = FOLDER / path
    return own if path.name == str(path) and own.is_file() else None


def is_config(name: str) -> bool:
    """Return whether a user's MODEL names a config, not an exported file or a classifier."""
    return name.endswith(('.py', '.json')) or '::' in name or find(name) is not None


def mmdet_folder() -> Path:
    """Return the folder of the configs that mmdet ships; mmdet is not imported."""
    spec = find_spec('mmdet')
    return Path(spec.origin if spec and spec.origin else '').parent / '.mim/configs'


def config_file(path: str | Path) -> Path:
    """Return the file of a config; see `ghost_det.config.load.load_config`."""
    name = str(path)
    path = Path(name).expanduser()
    if name.startswith(MMDET):
        path = mmdet_folder() / name.removeprefix(MMDET)
    elif not os.path.isfile(path):
        path = find(name) or path
    if not os.path.isfile(path):
        near = sorted(p.name for p in path.parent.glob('*.py'))[:20] if path.parent.is_dir() else []
        listing = f'; {path.parent} has {", ".join(near)}' if near else ''
        raise UserError(f'{name}: no such config file{listing}; by name there are {", ".join(names())}')
    if path.suffix not in ('.py', '.json'):
        raise UserError(f'{name}: not a config: the name of one ends in .py (reading .yaml could run code)')
    return path

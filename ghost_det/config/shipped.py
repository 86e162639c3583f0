"""The configs of this project, by name; needs only the standard library."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from ghost_det.errors import UserError

MMDET = 'mmdet::'
"""Prefix of the configs that mmdet ships."""
PREFIX = 'ghost_det::'
"""Prefix of our own configs, in ``_base_`` and on the command line."""
_INSIDE = Path(__file__).parents[1] / 'configs'
FOLDER = _INSIDE if _INSIDE.is_dir() else Path(__file__).resolve().parents[2] / 'configs'
"""Inside the package in a wheel, next to it in a clone."""


def names() -> list[str]:
    """Return the names of our configs, without ``.py``."""
    return sorted(path.stem for path in FOLDER.glob('*.py'))


def purpose(name: str) -> list[str]:
    """Return the comment at the top of one of our configs: what it is for, and what it costs."""
    lines = (FOLDER / f'{name}.py').read_text(encoding='utf-8').splitlines()
    return [line.removeprefix('# ') for line in takewhile(lambda line: line.startswith('#'), lines)]


def find(name: str) -> Path | None:
    """Return the file of a config called ``ghost_det::NAME`` or NAME, with or without ``.py``.

    For a bare NAME, a file in the current folder wins over one of ours.
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
    """Return the folder of the configs that mmdet ships, without importing mmdet."""
    spec = find_spec('mmdet')
    return Path(spec.origin if spec and spec.origin else '').parent / '.mim/configs'


def config_file(path: str | Path) -> Path:
    """Return the file of a config, by any name that `ghost_det.config.load.load_config` takes."""
    name = str(path)
    path = Path(name).expanduser()
    if name.startswith(MMDET):
        path = mmdet_folder() / name.removeprefix(MMDET)
    elif not path.is_file():
        path = find(name) or path
    if path.is_dir():
        raise UserError(f'{name}: expected a config file, got a folder')
    if not path.is_file():
        near = sorted(each.name for each in path.parent.glob('*.py'))[:20]
        listing = f'; {path.parent} has {", ".join(near)}' if near else ''
        raise UserError(f'{name}: no such config file{listing}; by name there are {", ".join(names())}')
    if path.suffix not in ('.py', '.json'):
        raise UserError(f'{name}: expected a config, whose name ends in .py (reading .yaml could run code)')
    return path

"""Writing a config as a short child of another one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.files import write_file

from . import shipped as own
from .load import is_inheritable, load_config, name_of

_SCOPE = '_scope_'  # mmengine adds it to what it inherits from ``mmdet::``
_WIDTH = 100


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a child of ``old`` must say to be ``new``, as mmengine merges them.

    A dictionary that lost a key is repeated in full, with ``_delete_=True``; so are lists.
    """
    if old.keys() - new.keys() - {_SCOPE}:
        return {'_delete_': True, **new}
    changed: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key)
        if key == _SCOPE or (key in old and before == value):
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = changes(before, value)
            if inner:
                changed[key] = inner
        elif isinstance(value, Mapping) and key in old:
            changed[key] = {'_delete_': True, **value}
        else:
            changed[key] = value
    return changed


def write_child(out: str | Path, base: str, cfg: Any, comment: str = '', force: bool = False) -> str:
    """Write a config that inherits from ``base`` and says only what differs; return its text.

    ``base`` is a path, ``mmdet::NAME`` or ``ghost_det::NAME``; ``comment`` becomes the first line.
    """
    out = Path(out)
    if not base:
        raise UserError(f'-o {out}: the base config is not a file; dump() writes a complete config')
    if out.suffix != '.py':
        raise UserError(f'-o {out}: expected a name that ends in .py')
    parent = load_config(base)
    if not is_inheritable(base):
        base = name_of(parent)  # which may have been named without .py or folder
    if not is_inheritable(base):
        file = own.config_file(base).resolve()
        if out.resolve() == file:
            raise UserError(f'-o {out}: is the base config itself; choose another name')
        base = Path(os.path.relpath(file, out.resolve().parent)).as_posix()
    if out.exists() and not force:
        raise UserError(f'-o {out}: exists; --force overwrites it, or choose another name')
    lines = [f'# {comment}'] if comment else []
    lines.append(f'_base_ = {base!r}')
    for name, value in changes(parent.to_dict(), cfg.to_dict()).items():
        lines.append(f'{name} = {_source(value, 0, len(name) + 3)}')
    text = '\n'.join(lines) + '\n'
    write_file(out, text, '-o')
    return text


def _source(value: Any, indent: int, lead: int) -> str:
    """Return Python source for a value of a config, on one line if that fits behind ``lead`` columns."""
    if isinstance(value, Mapping):
        words = all(isinstance(key, str) and key.isidentifier() for key in value)
        opening, closing = ('dict(', ')') if words else ('{', '}')
        heads = [f'{key}=' if words else f'{key!r}: ' for key in value]
        items = list(value.values())
    elif isinstance(value, list | tuple):
        opening, closing = '[]' if isinstance(value, list) else '()'
        heads, items = [''] * len(value), list(value)
    else:
        return repr(value)
    parts = [head + _source(item, 0, -10_000) for head, item in zip(heads, items)]
    lone = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    line = opening + ', '.join(parts) + lone + closing
    if indent + lead + len(line) <= _WIDTH:
        return line
    inner = ' ' * (indent + 4)
    lines = [f'{inner}{head}{_source(item, indent + 4, len(head))},' for head, item in zip(heads, items)]
    return '\n'.join([opening, *lines, ' ' * indent + closing])

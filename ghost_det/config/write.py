"""Writing a config as a short child of another one."""

from __future__ import annotations

import os
import pprint
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.files import write_or_fail

from . import shipped as own
from .load import is_inheritable, load_config, name_of

_SCOPE = '_scope_'  # mmengine adds it to what it inherits from ``mmdet::``


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
    if out.suffix != '.py':
        raise UserError(f'-o {out}: expected a name that ends in .py')
    if not base:
        raise UserError(f'-o {out}: there is no file to inherit from; dump() writes a complete config')
    parent = load_config(base)
    if not is_inheritable(base):
        base = name_of(parent)  # which may have been named without .py or folder
    if not is_inheritable(base):
        file = own.config_file(base).resolve()
        if out.resolve() == file:
            raise UserError(f'-o {out}: is the config to inherit from; choose another name')
        base = Path(os.path.relpath(file, out.resolve().parent)).as_posix()
    if out.exists() and not force:
        raise UserError(f'-o {out}: exists; --force overwrites it, or choose another name')
    text = f'# {comment}\n' * bool(comment) + f'_base_ = {base!r}\n'
    for name, value in changes(parent.to_dict(), cfg.to_dict()).items():
        text += f'{name} = {pprint.pformat(value, width=100, sort_dicts=False)}\n'
    with write_or_fail(out, '-o') as partial:
        partial.write_text(text, encoding='utf-8')
    return text

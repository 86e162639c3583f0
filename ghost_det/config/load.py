"""Reading configs: files, our names, ``mmdet::`` and ``ghost_det::``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from mmengine.config import Config

from ghost_det.errors import UserError, reason

from . import shipped as own

REQUIRED = ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator')


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Any:
    """Read a config and merge ``--cfg-options`` into it.

    It is a file; one of ours, as ``retinanet_ghostnet_fpn_lite`` (a file in the current folder wins) or
    ``ghost_det::NAME.py``; or one of mmdet's, as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
    """
    name, path = str(path), own.config_file(path)
    try:
        with _bases_by_name():
            if name.startswith(own.MMDET) and is_inheritable(name):
                # Read as a child inherits it: mmengine then adds a scope, which must not count as a change.
                inherited = Config.fromstring(f'_base_ = {name!r}', '.py')
                cfg = Config(inherited.to_dict(), filename=str(path))
            else:
                cfg = Config.fromfile(str(path))
    except (Exception, SystemExit) as error:
        cause: BaseException = error
        while isinstance(cause, ImportError) and cause.__context__:
            cause = cause.__context__  # mmengine's errors over custom_imports say only that an import failed
        text = 'its _base_ leads back to itself' if isinstance(cause, RecursionError) else ''
        raise UserError(f'{name}: not a config: {reason(cause, text)}') from None
    merge_options(cfg, options, name)
    return cfg


@contextlib.contextmanager
def _bases_by_name() -> Iterator[None]:
    """Let mmengine find our ``_base_ = 'ghost_det::NAME.py'`` in this block, and mmdet's a second sooner."""
    folders = {own.PREFIX: (own.FOLDER, None), own.MMDET: (own.mmdet_folder(), 'mmdet')}
    theirs = Config._get_cfg_path

    def find(base: str, filename: str) -> Any:
        for prefix, (folder, scope) in folders.items():
            if base.startswith(prefix) and (folder / base.removeprefix(prefix)).is_file():
                return str(folder / base.removeprefix(prefix)), scope
        return theirs(base, filename)

    with mock.patch.object(Config, '_get_cfg_path', staticmethod(find)):
        yield


def is_inheritable(name: str) -> bool:
    """Return whether ``_base_`` can name a config: mmengine refuses ``mmdet::gn+ws/``, for example."""
    return name.startswith(own.PREFIX) or re.match(own.MMDET + r'\w+/', name) is not None


def name_of(cfg: Any) -> str:
    """Return the file of a config, ``mmdet::NAME`` or ``ghost_det::NAME`` if it is installed; or ``''``."""
    path = Path(cfg.filename or '').absolute()
    if cfg.filename and path.is_relative_to(own.mmdet_folder()):
        return own.MMDET + path.relative_to(own.mmdet_folder()).as_posix()
    if cfg.filename and path.is_relative_to(Path(__file__).parents[1]):
        return own.PREFIX + path.relative_to(own.FOLDER).as_posix()
    return str(cfg.filename or '')


def merge_options(cfg: Any, options: dict[str, Any] | None, name: str) -> None:
    """Merge ``--cfg-options`` into the config called ``name``, and check that it describes a detector."""
    if options:
        try:
            cfg.merge_from_dict(options)
        except Exception as error:
            raise UserError(f'--cfg-options {options}: cannot be applied to {name}: {error}') from None
    absent = [key for key in REQUIRED if key not in cfg]
    if absent:
        raise UserError(f'{name}: not the config of a detector: it has no {", ".join(absent)}')
    for key in (*REQUIRED[:2], 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        value = cfg.get(key) or {}  # an evaluation needs no training settings
        parts = value if key == 'param_scheduler' and isinstance(value, list) else [value]
        if not all(isinstance(part, Mapping) for part in parts):
            raise UserError(f'{name}: {key} is {value!r:.60}; expected dict(...)')

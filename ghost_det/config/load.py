"""Reading configs: files, our names, ``mmdet::`` and ``ghost_det::``."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ghost_det.errors import UserError

from . import shipped as own


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Any:
    """Read a config file and merge ``--cfg-options`` into it.

    Args:
        path: a file; the name of a config of ours, as ``retinanet_ghostnet_fpn_lite`` (a file in the present
            folder wins) or ``ghost_det::retinanet_ghostnet_fpn_lite.py``; or one that mmdet ships, as
            ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
        options: settings by dotted name.

    Raises:
        UserError: no such file, not a config, or an option that does not fit it.
    """
    name, path = str(path), own.config_file(path)
    try:
        with _our_bases():
            if name.startswith(own.MMDET) and is_inheritable(name):
                # As a child inherits it, so that what differs between the two is the child's own.
                inherited = Config.fromstring(f'_base_ = {name!r}', '.py')
                cfg = Config(inherited.to_dict(), filename=str(path))
            else:
                cfg = Config.fromfile(str(path))
    except SyntaxError as error:
        raise UserError(f'{name}: not a config: {error.msg} in line {error.lineno}') from None
    except (Exception, SystemExit) as error:
        cause: BaseException | None = error
        while isinstance(cause, ImportError) and not isinstance(cause, ModuleNotFoundError):
            cause = cause.__context__
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(
                f'{name}: imports {cause.name}, which is not here: install it, or, if it is your own, '
                'export PYTHONPATH=ITS_FOLDER'
            ) from None
        raise UserError(f'{name}: cannot be read as a config: {type(error).__name__}: {error}') from None
    merge_options(cfg, options, name)
    return cfg


_LOCK = threading.RLock()


@contextlib.contextmanager
def _our_bases() -> Iterator[None]:
    """Let mmengine find ``_base_ = 'ghost_det::NAME.py'`` in this block."""

    def find(base: str, filename: str) -> tuple[str, str | None]:
        if base.startswith(own.PREFIX):
            return str(own.FOLDER / base.removeprefix(own.PREFIX)), None
        return theirs(base, filename)

    with _LOCK:  # two threads that restore in another order would leave one's function in place
        theirs: Callable[[str, str], tuple[str, str | None]] = Config._get_cfg_path
        Config._get_cfg_path = staticmethod(find)
        try:
            yield
        finally:
            Config._get_cfg_path = staticmethod(theirs)


def is_inheritable(name: str) -> bool:
    """Tell whether ``_base_`` can name a config: mmengine takes no ``mmdet::gn+ws/``, say."""
    return name.startswith(own.PREFIX) or re.match(own.MMDET + r'\w+/', name) is not None


def name_of(cfg: Any) -> str:
    """Return the path of the file that a config was read from; of no file, ``''``.

    Of files that come with mmdet or with a wheel of ours, it is ``mmdet::NAME`` and ``ghost_det::NAME``.
    """
    path = Path(cfg.filename or '').absolute()
    if cfg.filename and path.is_relative_to(own.mmdet_folder()):
        return own.MMDET + path.relative_to(own.mmdet_folder()).as_posix()
    if cfg.filename and path.is_relative_to(Path(__file__).parents[1]):
        return own.PREFIX + path.relative_to(own.FOLDER).as_posix()
    return str(cfg.filename or '')


def merge_options(cfg: Any, options: dict[str, Any] | None, name: str) -> None:
    """Merge ``--cfg-options`` into the config called ``name``, and check that it is that of a detector."""
    if options:
        try:
            cfg.merge_from_dict(options)
        except Exception as error:
            raise UserError(f'--cfg-options {options}: does not fit {name}: {error}') from None
    absent = [
        key for key in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator') if key not in cfg
    ]
    if absent:
        raise UserError(f'{name}: not the config of a detector: it has no {", ".join(absent)}')
    for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        value = cfg.get(key) or {}  # to evaluate, a config needs no training
        parts = value if key == 'param_scheduler' and isinstance(value, list) else [value]
        if not all(isinstance(part, Mapping) for part in parts):
            raise UserError(f'{name}: {key} is {value!r:.60}; expected dict(...)')

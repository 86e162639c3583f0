"""mmcv's operators without a compiler.

`mmcv.ops` imports the compiled module ``mmcv._ext``, which onedl-mmcv from PyPI and mmcv-lite lack, and mmdet
cannot be imported without it. `ensure_ops` supplies that module, written with torch and torchvision.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from ghost_det.utils.system import INSTALL, explain, missing

from .table import STAND_INS

EXTENSION = 'mmcv._ext'


def ensure_ops() -> str:
    """Make mmcv's operators, and so mmdet, importable; return ``'compiled'`` (mmcv's) or ``'stand-in'``."""
    if EXTENSION not in sys.modules:
        absent = missing(('mmengine', 'mmcv'))
        if absent:
            raise ImportError(explain(absent))
        spec = find_spec(EXTENSION)
        if spec is None:
            sys.meta_path.append(_StandInFinder())
        try:
            importlib.import_module(EXTENSION)
        except ImportError as error:
            raise ImportError(
                f"mmcv's compiled operators cannot be loaded with torch {torch.__version__}: {error}\n"
                f'Found {_mmcv_source()}: {spec and spec.origin}. Rebuild it for this torch, or uninstall it '
                f'and install a stack without compiled operators:\n{INSTALL}'
            ) from error
    spec = sys.modules[EXTENSION].__spec__
    return 'stand-in' if spec and spec.origin == __file__ else 'compiled'


def _mmcv_source() -> str:
    names = sorted(set(packages_distributions().get('mmcv', [])))
    return ' and '.join(f'{name} {version(name)}' for name in names) or 'an mmcv without metadata'


class _StandInFinder(MetaPathFinder, Loader):
    """Finds only ``mmcv._ext``, after all finders that could find a compiled one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, origin=__file__) if fullname == EXTENSION else None

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = "ghost_det's stand-ins for mmcv's compiled operators."
        vars(module).update(STAND_INS, __getattr__=_missing)


def _missing(name: str) -> Callable[..., Any]:
    """Return a function for an operator outside `STAND_INS`, as `mmcv.ops` looks up all on import."""
    if name.startswith('_'):
        raise AttributeError(f'module {EXTENSION!r} has no attribute {name!r}')

    def operator(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"mmcv's operator {name!r} is not available: {_mmcv_source()} has no compiled operators, and "
            f'ghost_det has no stand-in for this one. Options: build mmcv for torch {torch.__version__} (see '
            f'docs/operators.md), or choose a model that does not use {name!r}.'
        )

    operator.__name__ = operator.__qualname__ = name
    return operator

"""What is installed here, and what to say where it is not enough; needs the standard library alone."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import NoReturn

from ghost_det.called import is_command
from ghost_det.errors import UserError

RUNTIME = 'GHOST_DET_RUNTIME'
"""Environment variable: ``1`` has `ghost_det` import neither torch nor MMDetection, though they are here."""
MM = ('mmengine', 'mmcv', 'mmdet')
INSTALL = (
    '  pip install "ghost-det[mm]"        # the maintained fork, onedl-mmdetection; the default\n'
    '  pip install "ghost-det[official]"  # mmdet 3.3.0 with mmcv-lite 2.1.0'
)
FREE = (
    'called',
    'commands',
    'config',
    'data',
    'demo',
    'deploy',
    'errors',
    'installed',
    'utils',
    'version',
)
"""Modules and packages of `ghost_det` that can be imported without torch."""
_waits = is_command()


def missing(names: Sequence[str]) -> list[str]:
    """Return those of some packages that are not installed."""
    specs = {name: find_spec(name) for name in names}
    # A directory left behind by an uninstall is found as a namespace package, without an origin.
    return [name for name, spec in specs.items() if spec is None or spec.origin is None]


def explain(absent: Sequence[str], what: str = 'ghost_det') -> str:
    """Say that packages are absent, and how to install them."""
    return (
        f'{what} needs MMDetection and its libraries; not installed here: {", ".join(absent)}. '
        f'Install one of the two stacks:\n{INSTALL}'
    )


def refusal(what: str) -> str | None:
    """Say why a part of `ghost_det` that needs torch cannot be had, or return ``None`` where it can."""
    if os.environ.get(RUNTIME) == '1':
        return f'{what} needs torch, and {RUNTIME}=1 in the environment leaves it out: unset it'
    absent = missing(('torch', 'torchvision', *MM))
    return explain(absent, what) if absent else None


def waits() -> bool:
    """Tell whether `ghost_det` leaves torch and MMDetection to `load`: commands first parse their arguments.

    Whoever imports the package, a config too, has everything registered at once.
    """
    return _waits


def require(what: str) -> None:
    """Raise a `UserError` where torch or MMDetection, which ``what`` needs, is not installed."""
    reason = refusal(what)
    if reason:
        raise UserError(reason)


def load(what: str) -> None:
    """Register all of `ghost_det` in a command that has not needed torch so far; see `require`."""
    global _waits
    require(what)
    if _waits:
        _waits = False
        importlib.reload(sys.modules[__package__])


class Refuser:
    """Says of each module of `ghost_det` that needs torch why it cannot be imported."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Raise ImportError for such a module, and leave all others to other finders."""
        package, _, rest = fullname.partition('.')
        if package == __package__ and rest.partition('.')[0] not in FREE:
            reason = refusal(fullname)
            if reason:
                raise ImportError(reason)


def refuse(name: str) -> NoReturn:
    """Stand for the ``__getattr__`` of `ghost_det` where it is without torch.

    Raises:
        ImportError: for what would be there with torch, whether or not it exists.
        AttributeError: for what Python itself looks for, and modules that can be imported.
    """
    reason = None if name.startswith('_') or name in FREE else refusal(f'{__package__}.{name}')
    raise (
        ImportError(reason) if reason else AttributeError(f'module {__package__!r} has no attribute {name!r}')
    )

"""The machine, the installed packages, and how our commands are typed; standard library only."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError

COMMAND = 'ghost-det'
RUNTIME = 'GHOST_DET_RUNTIME'
"""Environment variable: with ``1``, importing `ghost_det` registers nothing and imports no torch."""
MM = ('mmengine', 'mmcv', 'mmdet')
STACK = ('torch', 'torchvision', *MM)
MMCV_STACK = STACK[:-1]
"""What OpenMMLab's projects have in common."""
INSTALL = (
    '  pip install "ghost-det[mm]"        # the maintained fork, onedl-mmdetection; the default\n'
    '  pip install "ghost-det[official]"  # mmdet 3.3.0 with mmcv-lite 2.1.0'
)


def missing(names: Sequence[str]) -> list[str]:
    """Return the packages that are not installed."""
    specs = {name: find_spec(name) for name in names}
    # A folder left behind by an uninstall is found as a namespace package, without an origin.
    return [name for name, spec in specs.items() if spec is None or spec.origin is None]


def explain(absent: Sequence[str], what: str = 'ghost_det') -> str:
    """Return the message that packages are missing, and how to install them."""
    return (
        f'{what} needs MMDetection and its libraries; not installed here: {", ".join(absent)}. '
        f'Install one of the two stacks:\n{INSTALL}'
    )


def without_stack(what: str, stack: Sequence[str] = STACK) -> str | None:
    """Return why ``what``, which needs the packages of ``stack``, is not available, or ``None`` if it is."""
    if os.environ.get(RUNTIME) == '1':
        return f'{what} needs torch, which {RUNTIME}=1 in the environment switches off: unset it'
    absent = missing(stack)
    return explain(absent, what) if absent else None


def require_stack(what: str) -> None:
    """Raise a `UserError` where torch or MMDetection, which ``what`` needs, is not available."""
    reason = without_stack(what)
    if reason:
        raise UserError(reason)


def require_torch(what: str) -> None:
    """Raise a `UserError` where torch, which ``what`` needs without MMDetection, is not installed."""
    absent = ' and '.join(missing(('torch', 'torchvision')))
    if absent:
        raise UserError(f'{what} needs {absent}, not installed: pip install torch torchvision')


def command(*words: str | Path) -> str:
    """Return the line to type for one of our commands."""
    return shlex.join([COMMAND, *map(str, words)])


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of distributions, without those that are not installed."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Describe the machine, without its name: processor, cores for this process, memory, vector units."""
    path = Path('/proc/cpuinfo')
    about = dict(re.findall(r'^(.+?)\s*: (.*)$', path.read_text(), re.M)) if path.exists() else {}
    units = ('avx2', 'avx512f', 'avx512_vnni', 'avx_vnni', 'avx512_bf16', 'amx_tile', 'asimd')
    flags = about.get('flags', '').split()
    return {
        'processor': about.get('model name') or platform.processor() or platform.machine(),
        'cores': cores(),
        'memory_gb': round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9, 1),
        'units': [unit for unit in units if unit in flags],
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
    }

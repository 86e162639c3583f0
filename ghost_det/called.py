"""How this project's commands are called here; needs the standard library alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

COMMAND = 'ghost-det'
_SCRIPT = sys.argv[0] if sys.argv else ''  # before `ghost_det.commands.main` puts the command's name there
_TOOLS = Path(__file__).resolve().parents[1] / 'tools'


def is_command() -> bool:
    """Tell whether this process is ``ghost-det``, or a tool of a clone, from its start."""
    if not hasattr(sys.modules['__main__'], '__file__'):  # as in processes that multiprocessing spawns
        return False
    return Path(_SCRIPT).stem == COMMAND or Path(_SCRIPT).resolve().parent == _TOOLS


def _leave(*_: object) -> None:
    os.write(2, b'interrupted\n')
    os._exit(130)


def interruptible() -> None:
    """Have Ctrl-C raise KeyboardInterrupt, as usual, from here on.

    Until a command has imported all it needs, it ends it at once: libraries swallow what their imports raise.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt in a block that writes files, so that none is left half done."""
    before = signal.getsignal(signal.SIGINT)
    interruptible()
    try:
        yield
    finally:
        if before is _leave:
            signal.signal(signal.SIGINT, before)


if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)


def _words(name: str) -> list[str]:
    script = _TOOLS / f'{name}.py'
    if Path(_SCRIPT).stem == COMMAND or not script.is_file():
        return [COMMAND, name.replace('_', '-')]
    return [str(script)]


def tool(name: str) -> str:
    """Return how to name a command in a message.

    Args:
        name: of its module in `ghost_det.commands`, as ``check_data``.

    Returns:
        ``ghost-det check-data``; in a clone, unless it was started so, ``tools/check_data.py``.
    """
    words = _words(name)
    return ' '.join(words) if words[0] == COMMAND else f'tools/{name}.py'


def script(name: str) -> str:
    """Return what torchrun is given to run a command: a Python file, or the program and that it is none."""
    words = _words(name)
    return shlex.join(['--no-python', *words] if words[0] == COMMAND else map(near, words))


def command(name: str, *words: str | Path) -> str:
    """Return the line that runs a command from the present folder, to be typed.

    Args:
        name: of its module in `ghost_det.commands`, as ``check_data``.
        words: its arguments.
    """
    first, *rest = _words(name)
    if first == COMMAND:
        script = _SCRIPT if Path(_SCRIPT).stem == COMMAND else ''
        found = shutil.which(COMMAND)
        on_path = found is not None and (not script or os.path.realpath(found) == os.path.realpath(script))
        start = [COMMAND if on_path or not script else near(script), *rest]
    else:
        start = [near(sys.executable), near(first)]
    return shlex.join([*start, *map(str, words)])


def near(path: str) -> str:
    """Return a path as seen from the present folder, where that is no detour."""
    relative = os.path.relpath(path)
    return path if relative.startswith('..') else relative

"""Mistakes of a user, told in one message and without a traceback; and faults of the code, told as such."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable

_OPTION = '--traceback'
_UNEXPECTED = 1
_MISTAKE = 2


class UserError(Exception):
    """A mistake that its message explains: the file or option, what was found, what to do."""


class Interrupted(Exception):
    """A training was told to stop; the message says what it saved. Tools then end with `EXIT_INTERRUPTED`."""


EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


def run_tool(main: Callable[[], object]) -> None:
    """Run a tool's ``main``, and turn what it raises into one message on stderr and an exit code.

    A `UserError` becomes its message and exit code 2. Anything else is a bug: exit code 1, and
    the traceback goes to a file that the message names, as another try may be hours away. ``--traceback`` on
    the command line, which no parser sees, prints the traceback of both. Of several processes, the first
    prints the whole message, the others one line.
    """
    shown = _OPTION in sys.argv[1:]
    sys.argv[1:] = [word for word in sys.argv[1:] if word != _OPTION]
    try:
        main()
    except UserError as error:
        _tell(f'error: {error}', shown)
        sys.exit(_MISTAKE)
    except Interrupted as stop:
        _tell(f'interrupted: {stop}', shown)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as of ``| head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_UNEXPECTED)
    except Exception as error:
        text = ' '.join(f'{type(error).__name__}: {error}'.split())[:400]
        where = '' if shown else _keep(traceback.format_exc())
        _tell(f'unexpected error: {text}\nThis is no mistake of yours; please report it.{where}', shown)
        sys.exit(_UNEXPECTED)


def _tell(message: str, shown: bool) -> None:
    """Print a message, and the traceback of the error at hand where it is asked for."""
    if shown:
        traceback.print_exc()
    rank = int(os.environ.get('RANK', '0')) if os.environ.get('RANK', '0').isdigit() else 0
    if rank:
        message = f'process {rank}: {message}'.partition('\n')[0][:300]
    print(message.encode(errors='backslashreplace').decode(), file=sys.stderr)


def _keep(text: str) -> str:
    """Write a traceback to a file and say where; where none can be written, return the traceback."""
    try:
        with tempfile.NamedTemporaryFile(
            'w', prefix='ghost_det-', suffix='.txt', delete=False, encoding='utf-8', errors='backslashreplace'
        ) as file:
            file.write(text)
    except OSError:
        return f'\n{text}'
    return f' Its traceback is in {file.name} ({_OPTION} prints it).'


def reason(error: BaseException, text: str = '') -> str:
    """Return an error in one line, with ``text`` instead of its own if given."""
    text = ' '.join((text or str(error)).split())
    unknown = re.search(r'([\w.]+) is not in the \S+ registry', text)
    if unknown:
        return (
            f'no module that the config imports has {unknown[1]}; name the one that does in the config, as '
            "custom_imports = dict(imports=['MODULE']), with its folder on PYTHONPATH"
        )
    return f'{type(error).__name__}: {text}'[:400]

"""User errors, reported in one message without a traceback; and bugs, reported as such."""

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable

_OPTION = '--traceback'
EXIT_INTERRUPTED = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""


class UserError(Exception):
    """An error of the user, explained by its message: the file or option, what was found, what to do."""


class Interrupted(Exception):
    """A training was stopped by a signal; the message says what it saved. The exit code is 75."""


def run_tool(main: Callable[[], object]) -> None:
    """Run ``main``, and turn what it raises into one message on stderr and an exit code.

    A `UserError` is exit code 2. Anything else is a bug: exit code 1, with the traceback in a file that the
    message names, because reproducing it may take hours. ``--traceback``, removed from the command line here,
    prints tracebacks instead. Of several processes, only the first prints more than one line.
    """
    shown = _OPTION in sys.argv[1:]
    sys.argv[1:] = [word for word in sys.argv[1:] if word != _OPTION]
    try:
        main()
    except UserError as error:
        _print_error(f'error: {error}', shown)
        sys.exit(2)
    except Interrupted as stop:
        _print_error(f'interrupted: {stop}', shown)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as of ``| head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        text = ' '.join(f'{type(error).__name__}: {error}'.split())[:400]
        where = '' if shown else _save(traceback.format_exc())
        _print_error(f'unexpected error: {text}\nThis is a bug; please report it.{where}', shown)
        sys.exit(1)


def _print_error(message: str, shown: bool) -> None:
    if shown:
        traceback.print_exc()
    rank = os.environ.get('RANK', '0')
    if rank.isdigit() and int(rank):
        message = f'process {rank}: {message}'.partition('\n')[0][:300]
    print(message.encode(errors='backslashreplace').decode(), file=sys.stderr)


def _save(text: str) -> str:
    """Write a traceback to a file and return where; if that fails, return the traceback."""
    try:
        with tempfile.NamedTemporaryFile(
            'w', prefix='ghost_det-', suffix='.txt', delete=False, encoding='utf-8', errors='backslashreplace'
        ) as file:
            file.write(text)
    except OSError:
        return f'\n{text}'
    return f' The traceback is in {file.name}; {_OPTION} prints it.'


def reason(error: BaseException, text: str = '') -> str:
    """Return an error in one line, with ``text`` instead of its own if given."""
    text = ' '.join((text or str(error)).split())
    unknown = re.search(r'([\w.]+) is not in the \S+ registry', text)
    if unknown:
        return (
            f'no module that the config imports has {unknown[1]}; add the one that does to the config, as '
            "custom_imports = dict(imports=['MODULE']), with its folder on PYTHONPATH"
        )
    return f'{type(error).__name__}: {text}'[:400]

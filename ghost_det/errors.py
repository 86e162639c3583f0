"""Mistakes of a user, told in one message and without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that its message explains: the file or option, what was found, what to do."""


class Interrupted(Exception):
    """A training was told to stop; the message says what it saved. Tools then end with `EXIT_INTERRUPTED`."""


EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's ``main``; a `UserError` becomes its message on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(f'interrupted: {stop}', file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)

"""Mistakes of a user, told in one message and without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that its message explains: the file or option, what was found, what to do."""


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's ``main``; a `UserError` becomes its message on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)

"""The program ``ghost-det``: starts without torch, which its commands import when they need it."""

import os
import sys


def main(*words: str) -> None:
    """Run the command that ``words`` and then the command line name.

    `ghost_det` registers everything with MMDetection when it is imported, except under this variable.
    """
    # OpenMP waits by spinning: on a shared core, that delays the threads it waits for (docs/results.md).
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    given = os.environ.get('GHOST_DET_RUNTIME')
    os.environ['GHOST_DET_RUNTIME'] = '1'
    import ghost_det.commands

    if given is None:
        del os.environ['GHOST_DET_RUNTIME']
    else:
        os.environ['GHOST_DET_RUNTIME'] = given
    sys.argv[1:1] = words
    ghost_det.commands.main()


if __name__ == '__main__':
    main()

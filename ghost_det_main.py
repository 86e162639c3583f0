"""The program ``ghost-det``: starts without torch, which its commands import when they need it."""

import os
import sys


def main(*words: str) -> None:
    """Run the command that ``words`` and then the command line name.

    `ghost_det` registers everything with MMDetection when it is imported, except under this variable.
    """
    # By default GNU OpenMP spins 60 times as long while it waits, which delays what it waits for on a shared
    # core: docs/results.md.
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', '5000')
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

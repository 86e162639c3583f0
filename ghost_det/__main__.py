"""``python -m ghost_det`` is the command ``ghost-det``, where the folder of scripts is not on PATH."""

from .commands import main

if __name__ == '__main__':
    main()

"""Evaluate a detector: python tools/test.py CONFIG CHECKPOINT [--data sample|FOLDER] [options]."""

from ghost_det_main import main

if __name__ == '__main__':
    main('test')

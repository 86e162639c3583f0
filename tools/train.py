"""Train a detector: python tools/train.py CONFIG [--data sample|FOLDER] [options]."""

from ghost_det_main import main

if __name__ == '__main__':
    main('train')

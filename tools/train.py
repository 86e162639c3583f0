"""Train a detector: python tools/train.py CONFIG [--data sample|FOLDER] [options]."""

from ghost_det.commands.train import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

"""Evaluate a detector: python tools/test.py CONFIG CHECKPOINT [--data sample|FOLDER] [options]."""

from ghost_det.commands.test import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

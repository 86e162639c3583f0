"""Parameters and multiply-adds of a detector: python tools/complexity.py CONFIG [--size HEIGHT WIDTH]."""

from ghost_det.commands.complexity import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

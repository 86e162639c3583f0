"""A backbone under every kind of detector of mmdet: python tools/sweep.py [FOLDER ...] [-o TABLE.md]."""

from ghost_det.commands.sweep import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

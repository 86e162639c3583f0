"""Look into a network: python tools/visualize.py redundancy|ghost|cam|pyramid MODEL [PTH] IMAGE -o PNG."""

from ghost_det.commands.visualize import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

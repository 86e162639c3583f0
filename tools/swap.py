"""Another backbone for a detector: python tools/swap.py CONFIG -o MY_CONFIG.py [options]."""

from ghost_det.commands.swap import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

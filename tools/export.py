"""Export a trained detector: python tools/export.py CONFIG CHECKPOINT -o FILE.xml [options]."""

from ghost_det.commands.export import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

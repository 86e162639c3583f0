"""Look for mistakes in a data set: python tools/check_data.py FOLDER [--html report.html] [--fix OUT]."""

from ghost_det.commands.check_data import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

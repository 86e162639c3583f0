"""Examine the installation: python tools/doctor.py. Works where nothing is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone's, installed or not

from ghost_det.commands.doctor import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

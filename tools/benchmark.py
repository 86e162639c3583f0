"""Measurements on this machine: python tools/benchmark.py --help lists them."""

from ghost_det.commands.benchmark import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

"""Put trainings side by side: python tools/compare.py RUN_A RUN_B [...] [-o page.html]."""

from ghost_det.commands.compare import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

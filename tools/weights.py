"""Published ImageNet weights: python tools/weights.py list | show | download | verify | extract."""

from ghost_det.commands.weights import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

"""COCO 2017 into data/coco: python tools/prepare_coco.py [--subset N | --verify] [options]."""

from ghost_det.commands.prepare_coco import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

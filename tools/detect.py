"""Find objects: python tools/detect.py MODEL.xml IMAGE|FOLDER|VIDEO|0... -o FOLDER [options]."""

from ghost_det.commands.detect import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

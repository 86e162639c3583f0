"""Classes of images: python tools/classify.py IMAGE|FOLDER... [--model NAME] [--json FILE] [--out FOLDER]."""

from ghost_det.commands.classify import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

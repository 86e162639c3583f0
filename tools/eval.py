"""Evaluate saved detections without their model: python tools/eval.py RESULTS.json ANN.json [options]."""

from ghost_det.commands.eval import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

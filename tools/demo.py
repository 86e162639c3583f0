"""Try detectors in the browser: python tools/demo.py MODEL.xml|MODEL.onnx|CONFIG.py CHECKPOINT.pth..."""

from ghost_det.commands.demo import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

"""Find objects in many images: python tools/detect_many.py MODEL.xml FOLDER|LIST|s3://... -o FOLDER."""

from ghost_det.commands.detect_many import main
from ghost_det.errors import run_tool

if __name__ == '__main__':
    run_tool(main)

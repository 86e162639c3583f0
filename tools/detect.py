"""Find objects: python tools/detect.py MODEL.xml IMAGE|FOLDER|VIDEO|0... -o FOLDER [options]."""

import os
import sys

# Exported detectors need no torch, whose import takes seconds. Set before anything is imported.
if any(word.endswith(('.xml', '.onnx')) for word in sys.argv[1:2]):
    os.environ['GHOST_DET_RUNTIME'] = '1'
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', '100000000')

import argparse
from pathlib import Path

from ghost_det.cli import parse, share, whole
from ghost_det.deploy.detect import SCORE, detect_files
from ghost_det.errors import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Find objects in images and videos.',
        usage='%(prog)s [options] MODEL.xml|MODEL.onnx|CONFIG.py CHECKPOINT.pth SOURCE... -o FOLDER',
        epilog='Exit code 1: some images could not be read.',
    )
    parser.add_argument(
        'model', metavar='MODEL', help='of tools/export.py; or a config and then its checkpoint, for torch'
    )
    parser.add_argument(
        'sources', nargs='+', metavar='SOURCE', help='image, folder of images, video, or number of a camera'
    )
    parser.add_argument(
        '-o', '--out', type=Path, required=True, metavar='FOLDER', help='for pictures and videos with boxes'
    )
    parser.add_argument(
        '--score', type=share, default=SCORE, help='the least score of an object (default: %(default)s)'
    )
    parser.add_argument('--batch', type=whole, default=1, metavar='N', help='images at a time (default: 1)')
    parser.add_argument('--threads', type=whole, metavar='N', help='cores to use (default: all)')
    parser.add_argument('--json', action='store_true', help='write FOLDER/detections.json')
    parser.add_argument('--no-pictures', action='store_true', help='write neither pictures nor videos')
    args = parse(parser)
    failed = detect_files(
        args.model,
        args.sources,
        args.out,
        score=args.score,
        batch=args.batch,
        threads=args.threads,
        json_file=args.json,
        pictures=not args.no_pictures,
    )
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    run_tool(main)

"""Detect objects in images and videos.

Exit code: 1 if some images failed.
"""

import argparse
import os
import sys

from ghost_det.config.shipped import is_config
from ghost_det.errors import UserError
from ghost_det.utils.system import RUNTIME

from ._options import COUNT, FOLDER, MODEL, add_tiles, fraction, open_detector


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = '%(prog)s [options] MODEL|CONFIG CHECKPOINT.pth SOURCE... -o FOLDER'
    parser.add_argument('model', metavar='MODEL', help=MODEL)
    source = 'image, folder of images, video, or number of a camera'
    parser.add_argument('sources', nargs='+', metavar='SOURCE', help=source)
    parser.add_argument('-o', '--out', **FOLDER, required=True, help='folder for the output')
    parser.add_argument('--score', type=fraction, default=0.3, help='minimum score (default: %(default)s)')
    parser.add_argument('--batch', **COUNT, default=1, help='images per batch (default: %(default)s)')
    add_tiles(parser)
    parser.add_argument('--threads', **COUNT, help='CPU threads (default: all cores)')
    parser.add_argument('--json', action='store_true', help='also write FOLDER/detections.json')
    parser.add_argument('--no-pictures', action='store_true', help='do not write images or videos')


def run(args: argparse.Namespace) -> None:
    checkpoint, sources = None, args.sources
    if is_config(args.model):
        checkpoint, *sources = sources
        if not sources:
            raise UserError(f'{args.model}: a config must be followed by its checkpoint, then by images')
    else:
        os.environ[RUNTIME] = '1'  # child processes need no torch either
    from ghost_det.deploy.detect import detect_files
    from ghost_det.deploy.tiles import tiled

    detector = open_detector(args.model, checkpoint, args.threads, args.score)
    detector = tiled(detector, args.tile, args.overlap)
    output = (args.out, args.batch, args.threads, args.json, not args.no_pictures)
    sys.exit(1 if detect_files(detector, args.model, sources, *output) else 0)

"""Find objects in images and videos."""

import argparse
import os
import sys
from typing import Any

from ghost_det.config.shipped import is_config
from ghost_det.errors import UserError
from ghost_det.utils.system import RUNTIME

from ._options import COUNT, FOLDER, MODEL, Parser, fraction, parse, register


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Find objects in images and videos.',
        usage='%(prog)s [options] MODEL.xml|MODEL.onnx|CONFIG CHECKPOINT.pth SOURCE... -o FOLDER',
        epilog='Exit code 1: some images failed.',
    )
    parser.add_argument('model', metavar='MODEL', help=MODEL)
    source = 'image, folder of images, video, or number of a camera'
    parser.add_argument('sources', nargs='+', metavar='SOURCE', help=source)
    parser.add_argument('-o', '--out', **FOLDER, required=True, help='for the pictures and videos')
    parser.add_argument('--score', type=fraction, default=0.3, help='the minimum score (default: 0.3)')
    parser.add_argument('--batch', **COUNT, default=1, help='images at a time (default: 1)')
    parser.add_argument('--threads', **COUNT, help='cores to use (default: all)')
    parser.add_argument('--json', action='store_true', help='write FOLDER/detections.json')
    parser.add_argument('--no-pictures', action='store_true', help='write neither pictures nor videos')
    return parser


def main() -> None:
    """Detect as the command line says; exit code 1 where some images failed."""
    args = parse(make_parser(), light=True)
    if args.model.endswith(('.xml', '.onnx')):
        os.environ[RUNTIME] = '1'  # processes started from here need no torch either
    from ghost_det.deploy.detect import detect_files

    detector, sources = _open(args)
    failed = detect_files(
        detector,
        args.model,
        sources,
        args.out,
        batch=args.batch,
        threads=args.threads,
        json_file=args.json,
        pictures=not args.no_pictures,
    )
    sys.exit(1 if failed else 0)


def _open(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """Return the detector that the first words name, exported or in torch, and the sources after them."""
    if not is_config(args.model):
        from ghost_det.deploy.detector import Detector

        return Detector(args.model, threads=args.threads, score_threshold=args.score), args.sources
    checkpoint, *sources = args.sources
    if not sources:
        raise UserError(f'{args.model}: expected, after a config, its checkpoint and then images')
    register(args.model)
    from ghost_det.engine.inference import TorchDetector

    detector = TorchDetector(args.model, checkpoint, threads=args.threads, score_threshold=args.score)
    return detector, sources

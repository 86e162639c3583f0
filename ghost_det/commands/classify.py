"""Name what images show, by ImageNet's classes."""

import argparse
import sys
from pathlib import Path

from ._options import Parser, parse, positive_int


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description="Name what images show, by ImageNet's 1000 classes.",
        epilog='Networks: those of ghost-det weights list. Exit code 1: some images could not be read.',
    )
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE', help='image, or folder of images')
    parser.add_argument('--model', default='ghostnet_1x', metavar='NAME', help='default: %(default)s')
    parser.add_argument(
        '--pretrained',
        default='published',
        metavar='SOURCE',
        help="file, URL, ghost://NAME, 'none' or 'published' (default)",
    )
    parser.add_argument(
        '--topk',
        type=positive_int,
        default=5,
        metavar='K',
        help='classes of each image (default: %(default)s)',
    )
    parser.add_argument(
        '--batch-size',
        type=positive_int,
        default=16,
        metavar='N',
        help='images at a time (default: %(default)s)',
    )
    parser.add_argument('--json', metavar='FILE', help="save the results; '-' prints them and nothing else")
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='draw a bar chart for each image')
    return parser


def main() -> None:
    """Classify as the command line says; exit code 1 where some images could not be read."""
    args = parse(make_parser())
    from ._classify import classify_files

    failed = classify_files(
        args.images, args.model, args.pretrained, args.topk, args.batch_size, args.json, args.out
    )
    sys.exit(1 if failed else 0)

"""Put trainings side by side."""

import argparse
from pathlib import Path

from ._options import Parser, parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description='Put two or more trainings side by side.')
    run = 'a work folder, or a file of ghost-det test --json; the others are compared with the first'
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUN', help=run)
    parser.add_argument('-o', '--out', type=Path, metavar='FILE.html', help='write one page of it')
    return parser


def main() -> None:
    """Compare as the command line says."""
    args = parse(make_parser())
    from ghost_det.reports.compare import compare

    for line in compare(args.runs, args.out):
        print(line)

"""Compare trainings side by side."""

import argparse
from pathlib import Path

from ._options import parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description='Compare two or more trainings side by side.')
    run = 'work folder, or a file written by ghost-det test --json; the first is the reference'
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUN', help=run)
    parser.add_argument('-o', '--out', type=Path, metavar='FILE.html', help='also write an HTML page')
    return parser


def main() -> None:
    """Compare the runs of the command line."""
    args = parse(make_parser())
    from ghost_det.reports.compare import compare

    for line in compare(args.runs, args.out):
        print(line)

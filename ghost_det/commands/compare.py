"""Compare two or more trainings side by side."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    run = 'work folder, or a file written by ghost-det test --json; the first is the reference'
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUN', help=run)
    parser.add_argument('-o', '--out', type=Path, metavar='FILE.html', help='also write an HTML page')


def run(args: argparse.Namespace) -> None:
    from ghost_det.reports.compare import compare

    for line in compare(args.runs, args.out):
        print(line)

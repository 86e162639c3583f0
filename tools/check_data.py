"""Look for mistakes in a data set: python tools/check_data.py FOLDER [--html report.html] [--fix OUT]."""

import argparse
import json
import sys
from pathlib import Path

from ghost_det import check_dataset
from ghost_det.cli import add_parts
from ghost_det.errors import run_tool
from ghost_det.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Look for mistakes in a data set.',
        epilog='Exit code 0: no errors; 1: errors found; 2: cannot be run.',
    )
    parser.add_argument('data', nargs='?', metavar='FOLDER', help="a data set, or 'sample'")
    add_parts(parser)
    parser.add_argument('--quick', action='store_true', help='do not open images')
    parser.add_argument('--jobs', type=int, help='processes that open images (default: all cores)')
    parser.add_argument('--json', type=Path, metavar='FILE.json', help='the report for machines')
    args = parser.parse_args()
    report = check_dataset(
        args.data,
        args.train_ann,
        args.train_images,
        args.val_ann,
        args.val_images,
        quick=args.quick,
        jobs=args.jobs,
        progress=True,
    )
    print(report)
    if args.json:
        with atomic(args.json) as partial:
            partial.write_text(json.dumps(report.to_dict(), indent=2))
    sys.exit(bool(report.errors))


if __name__ == '__main__':
    run_tool(main)

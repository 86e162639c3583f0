"""Measurements: python tools/benchmark.py annotations [--scales 1 3 10] [--workers N]."""

import argparse
from pathlib import Path

from ghost_det.benchmark import annotation_table
from ghost_det.errors import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description='Measure what a training costs.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    command = commands.add_parser('annotations', help='start-up time and memory over the size of annotations')
    command.add_argument(
        '--scales',
        type=float,
        nargs='+',
        default=[1.0, 3.0, 10.0],
        metavar='N',
        help="sizes in units of COCO train2017's (default: 1 3 10, which takes 13 GB of memory)",
    )
    command.add_argument('--workers', type=int, default=2, help='of the loader (default: %(default)s)')
    command.add_argument('--polygons', action='store_true', help='with masks, as for instance segmentation')
    command.add_argument('--serialize', choices=['yes', 'no', 'both'], default='both', help='serialize_data')
    command.add_argument('--folder', type=Path, help='for the generated files (default: the temporary one)')
    args = parser.parse_args()
    serialize = {'yes': [True], 'no': [False], 'both': [True, False]}[args.serialize]
    for line in annotation_table(args.scales, args.workers, serialize, args.polygons, args.folder):
        print(line, flush=True)


if __name__ == '__main__':
    run_tool(main)

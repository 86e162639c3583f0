"""Measurements on this machine: python tools/benchmark.py annotations|evaluation|operators|training."""

import argparse
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

from ghost_det.benchmarks.annotations import annotation_table
from ghost_det.benchmarks.evaluation import evaluation_table
from ghost_det.benchmarks.ops import main_table
from ghost_det.benchmarks.training import training_table
from ghost_det.cli import parse, positive, whole
from ghost_det.errors import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description='Measure what a training costs on this machine.')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    command = commands.add_parser('annotations', help='start-up time and memory over the size of annotations')
    command.set_defaults(run=annotations)
    command.add_argument(
        '--scales',
        type=positive,
        nargs='+',
        default=[1.0, 3.0, 10.0],
        metavar='N',
        help="sizes in units of COCO train2017's (default: 1 3 10, which needs 15 GB of memory)",
    )
    command.add_argument('--workers', type=int, default=2, help='of the loader (default: %(default)s)')
    command.add_argument('--polygons', action='store_true', help='with masks, as for instance segmentation')
    command.add_argument('--serialize', choices=['yes', 'no', 'both'], default='both', help='serialize_data')
    command.add_argument('--folder', type=Path, help='for the generated files (default: the temporary one)')

    command = commands.add_parser('evaluation', help="COCO's figures: faster-coco-eval beside pycocotools")
    command.set_defaults(run=evaluation)
    command.add_argument('--images', type=int, default=5000, help='(default: %(default)s)')
    command.add_argument('--detections', type=int, default=100, help='an image (default: %(default)s)')
    command.add_argument('--rounds', type=int, default=2, help='of both by turns (default: %(default)s)')

    command = commands.add_parser('operators', help="mmcv's: stand-ins, and the compiled where there are any")
    command.set_defaults(run=operators)
    command.add_argument('--seconds', type=positive, default=10, help='for each (default: %(default)s)')

    command = commands.add_parser('training', help='a step with mixed precision, EMA, accumulation')
    command.set_defaults(run=training)
    command.add_argument('config', nargs='?', default='configs/retinanet_ghostnet_fpn_lite.py')
    command.add_argument('--batch-size', type=whole, default=8, help='images a step (default: %(default)s)')
    command.add_argument('--size', type=whole, default=320, help='side of the images (default: %(default)s)')
    command.add_argument('--rounds', type=whole, default=10, help='steps of each (default: %(default)s)')
    command.add_argument('--compile', action='store_true', help='torch.compile as well: minutes to begin')

    args = parse(parser)
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    for line in args.run(args):
        print(line, flush=True)


def annotations(args: argparse.Namespace) -> Iterable[str]:
    serialize = {'yes': [True], 'no': [False], 'both': [True, False]}[args.serialize]
    return annotation_table(args.scales, args.workers, serialize, args.polygons, args.folder)


def evaluation(args: argparse.Namespace) -> Iterable[str]:
    return evaluation_table(args.images, args.detections, args.rounds)


def operators(args: argparse.Namespace) -> Iterable[str]:
    return [main_table(args.seconds)]


def training(args: argparse.Namespace) -> Iterable[str]:
    return training_table(args.config, args.batch_size, args.size, args.rounds, args.compile)


if __name__ == '__main__':
    run_tool(main)

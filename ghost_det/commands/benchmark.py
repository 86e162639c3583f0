"""Measure what training and detecting cost on this machine."""

import argparse
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

from ._options import CONFIG_HELP, Parser, parse, positive, whole


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description='Measure what training and detecting cost on this machine.')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    command = commands.add_parser('annotations', help='start-up time and memory over the size of annotations')
    command.set_defaults(run=_annotations)
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
    command.set_defaults(run=_evaluation)
    command.add_argument('--images', type=int, default=5000, help='(default: %(default)s)')
    command.add_argument('--detections', type=int, default=100, help='an image (default: %(default)s)')
    command.add_argument('--rounds', type=int, default=2, help='of both by turns (default: %(default)s)')

    command = commands.add_parser('operators', help="mmcv's: stand-ins, and the compiled where there are any")
    command.set_defaults(run=_operators)
    command.add_argument('--seconds', type=positive, default=10, help='for each (default: %(default)s)')

    command = commands.add_parser('training', help='a step with mixed precision, EMA, accumulation')
    command.set_defaults(run=_training)
    command.add_argument(
        'config', nargs='?', default='retinanet_ghostnet_fpn_lite', metavar='CONFIG', help=CONFIG_HELP
    )
    command.add_argument('--batch-size', type=whole, default=8, help='images a step (default: %(default)s)')
    command.add_argument('--size', type=whole, default=320, help='side of the images (default: %(default)s)')
    command.add_argument('--rounds', type=whole, default=10, help='steps of each (default: %(default)s)')
    command.add_argument('--compile', action='store_true', help='torch.compile as well: minutes to begin')
    command.add_argument('--backbones', action='store_true', help="ours and timm's, 256 x 320, instead")

    command = commands.add_parser('backbones', help="speed in every engine, beside timm's and torchvision's")
    command.set_defaults(run=_backbones)
    command.add_argument('--sizes', type=whole, nargs='+', metavar='SIDE', help='(default: 320 640)')
    command.add_argument('--batch', type=whole, nargs='+', default=[1], metavar='N', help='(default: 1)')
    command.add_argument('--growth', action='store_true', help='224 to 1280 px, and the exponent over pixels')
    _add_speed(command)

    command = commands.add_parser('detectors', help="speed from pixels to boxes, beside mmdet's small ones")
    command.set_defaults(run=_detectors)
    command.add_argument('configs', nargs='*', metavar='CONFIG', help='(default: two lite ones)')
    command.add_argument('--size', type=whole, default=320, help='side of the input (default: %(default)s)')
    _add_speed(command)

    command = commands.add_parser('table', help='Markdown of a RESULTS.json of backbones or detectors')
    command.set_defaults(run=_show)
    command.add_argument('results', type=Path, metavar='RESULTS.json')

    return parser


def main() -> None:
    """Measure as the command line says."""
    args = parse(make_parser())
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    for line in args.run(args):
        print(line, flush=True)


def _annotations(args: argparse.Namespace) -> Iterable[str]:
    from ghost_det.benchmarks.annotations import annotation_table

    serialize = {'yes': [True], 'no': [False], 'both': [True, False]}[args.serialize]
    return annotation_table(args.scales, args.workers, serialize, args.polygons, args.folder)


def _evaluation(args: argparse.Namespace) -> Iterable[str]:
    from ghost_det.benchmarks.evaluation import evaluation_table

    return evaluation_table(args.images, args.detections, args.rounds)


def _operators(args: argparse.Namespace) -> Iterable[str]:
    from ghost_det.benchmarks.ops import main_table

    return [main_table(args.seconds)]


def _add_speed(command: argparse.ArgumentParser) -> None:
    command.add_argument('--threads', type=whole, nargs='+', metavar='N', help='(default: all cores)')
    command.add_argument('--only', nargs='+', default=[], metavar='PART', help="of 'NETWORK: ENGINE'")
    command.add_argument('--int8', action='store_true', help="OpenVINO's INT8 as well: a minute to begin")
    command.add_argument('--compile', action='store_true', help='torch.compile as well: minutes to begin')
    command.add_argument('--memory', action='store_true', help='of each in a process of its own')
    command.add_argument('--seconds', type=positive, default=60, help='for each table (default: %(default)s)')
    command.add_argument('-o', '--output', type=Path, metavar='FOLDER', help='for RESULTS.json and charts')


def _engines(args: argparse.Namespace) -> list[str]:
    from ghost_det.benchmarks.engines import ENGINES

    left_out = {'compiled': not args.compile, 'openvino int8': not args.int8}
    return [engine for engine in ENGINES if not left_out.get(engine)]


def _backbones(args: argparse.Namespace) -> Iterable[str]:
    from ghost_det.benchmarks import backbones
    from ghost_det.benchmarks.report import report
    from ghost_det.utils.system import cores

    contenders = backbones.chosen(args.only, _engines(args))
    sizes = args.sizes or (backbones.GROWTH if args.growth else (320, 640))
    threads = args.threads or [cores()]
    measured = backbones.backbone_results(sizes, args.batch, threads, contenders, args.seconds, args.memory)
    return report(measured, args.output, args.growth)


def _detectors(args: argparse.Namespace) -> Iterable[str]:
    from ghost_det.benchmarks import detectors
    from ghost_det.benchmarks.report import report
    from ghost_det.utils.system import cores

    configs, threads = args.configs or detectors.CONFIGS, args.threads or [cores()]
    measured = detectors.detector_results(
        configs, args.size, threads, args.only, _engines(args), args.seconds, args.memory
    )
    return report(measured, args.output)


def _show(args: argparse.Namespace) -> Iterable[str]:
    from ghost_det.benchmarks.rows import read_rows, table

    return table(read_rows(args.results))


def _training(args: argparse.Namespace) -> Iterable[str]:
    from ghost_det.benchmarks.training import backbone_training_table, training_table

    if args.backbones:
        return backbone_training_table(args.batch_size, (256, 320), args.rounds)
    return training_table(args.config, args.batch_size, args.size, args.rounds, args.compile)

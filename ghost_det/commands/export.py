"""Export a trained detector to one file that needs no torch."""

import argparse
from pathlib import Path

from ._options import Parser, add_config_options, add_data, data_of, fraction, parse, positive_int


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Export a trained detector to one file, from raw pixels to boxes, that needs no torch.'
    )
    parser.add_argument('config', metavar='CONFIG', help='the config that the detector was trained with')
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='its weights, as work_dirs/CONFIG/epoch_24.pth'
    )
    parser.add_argument('--format', choices=['onnx', 'openvino'], help='default: what -o says, else openvino')
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        metavar='FILE',
        help='NAME.onnx or NAME.xml (default: next to the checkpoint)',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=positive_int,
        metavar=('HEIGHT', 'WIDTH'),
        help="of the input (default: the config's)",
    )
    parser.add_argument('--dynamic', action='store_true', help='take images of any size')
    parser.add_argument('--half', action='store_true', help='weights in 16 bits: half the file')
    parser.add_argument(
        '--opset', type=positive_int, default=18, metavar='N', help='of ONNX (default: %(default)s)'
    )
    parser.add_argument(
        '--int8', action='store_true', help='8-bit integers where mAP allows it; needs data to measure it on'
    )
    parser.add_argument(
        '--max-drop',
        type=fraction,
        default=0.005,
        metavar='MAP',
        help='that --int8 may cost (default: %(default)s)',
    )
    data = parser.add_argument_group("data, for --int8 and for the file's check, instead of generated images")
    add_data(data)
    add_config_options(parser)
    return parser


def main() -> None:
    """Export as the command line says."""
    args = parse(make_parser(), splits=('val',))
    from ghost_det.export.export import export
    from ghost_det.weights.checkpoint import checkpoint_classes, load_checkpoint

    for line in export(
        args.config,
        args.checkpoint,
        args.out,
        args.format,
        size=tuple(args.size) if args.size else None,
        dynamic=args.dynamic,
        half=args.half,
        opset=args.opset,
        int8=args.int8,
        max_drop=args.max_drop,
        data=data_of(args, checkpoint_classes(load_checkpoint(args.checkpoint))),
        options=args.cfg_options,
    ):
        print(line, flush=True)

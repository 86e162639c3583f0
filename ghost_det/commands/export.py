"""Export a trained detector to one file that needs no torch."""

import argparse
from pathlib import Path

from ._options import SIZE, WEIGHTS, Parser, add_config_options, add_data, data_of, fraction, parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Export a trained detector to one file, from raw pixels to boxes, that needs no torch.'
    )
    parser.add_argument('config', metavar='CONFIG', help='the config that the detector was trained with')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help=WEIGHTS)
    out = 'NAME.onnx, or NAME.xml for OpenVINO (default: an .xml next to the checkpoint)'
    parser.add_argument('-o', '--out', type=Path, metavar='FILE', help=out)
    parser.add_argument('--size', **SIZE, help="of the input (default: the config's)")
    parser.add_argument('--dynamic', action='store_true', help='take images of any size')
    parser.add_argument('--half', action='store_true', help='weights in 16 bits: half the file; for .xml')
    int8 = '8-bit integers where mAP allows it; needs data to measure it on'
    parser.add_argument('--int8', action='store_true', help=int8)
    cost = 'that --int8 may cost (default: %(default)s)'
    parser.add_argument('--max-drop', type=fraction, default=0.005, metavar='MAP', help=cost)
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
        size=tuple(args.size) if args.size else None,
        dynamic=args.dynamic,
        half=args.half,
        int8=args.int8,
        max_drop=args.max_drop,
        data=data_of(args, checkpoint_classes(load_checkpoint(args.checkpoint))),
        options=args.cfg_options,
    ):
        print(line, flush=True)

"""Export a trained detector to one file, from raw pixels to boxes, that runs without torch."""

import argparse
from pathlib import Path

from . import _options as options


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help=options.TRAINED_CONFIG)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help=options.CHECKPOINT)
    out = 'NAME.onnx, NAME.xml for OpenVINO, or NAME.ncnn (default: an .xml next to the checkpoint)'
    parser.add_argument('-o', '--out', type=Path, metavar='FILE', help=out)
    parser.add_argument('--size', **options.SIZE, help="input size (default: the config's)")
    parser.add_argument('--dynamic', action='store_true', help='accept images of any size')
    parser.add_argument('--half', action='store_true', help='store weights in 16 bits, for smaller files')
    raw = 'for other engines: ONNX up to the maps of the head, without post-processing'
    parser.add_argument('--raw', action='store_true', help=raw)
    int8 = 'quantize to 8-bit integers as far as mAP allows; needs data to measure it'
    parser.add_argument('--int8', action='store_true', help=int8)
    drop = 'mAP that --int8 may lose (default: %(default)s)'
    parser.add_argument('--max-drop', type=options.fraction, default=0.005, metavar='MAP', help=drop)
    title = 'data set for --int8 and for checking the file, instead of generated images'
    options.add_data(parser.add_argument_group(title))
    options.add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    import torch

    from ghost_det.errors import UserError

    if torch.__version__ < '2.6':  # compared as versions; the first whose exporter allows dynamic sizes
        raise UserError(
            f'ghost-det export: expected torch 2.6 or newer, got {torch.__version__}; run it '
            'in an environment with a newer torch, on the same config and checkpoint'
        )
    from ghost_det.export.export import choose_target, export
    from ghost_det.weights.checkpoint import checkpoint_classes, load_checkpoint

    choose_target(Path(args.checkpoint), args.out, args.half, args.int8, args.raw)
    options.load_data(args, checkpoint_classes(load_checkpoint(args.checkpoint)))
    args.size = tuple(args.size) if args.size else None
    for line in export(**vars(args)):
        print(line, flush=True)

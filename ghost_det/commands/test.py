"""Evaluate a detector."""

import argparse

from ghost_det.errors import UserError

from ._options import WEIGHTS, Parser, add_common, data_of, parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description="Evaluate a detector with COCO's twelve figures.")
    parser.add_argument('config', metavar='CONFIG', help='the config that the detector was trained with')
    checkpoint = f'{WEIGHTS}, or an exported file, .xml or .onnx'
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help=checkpoint)
    add_common(parser)
    out = 'save the predictions: .json for COCO results (ghost-det eval), or .pkl'
    parser.add_argument('--out', metavar='FILE', help=out)
    parser.add_argument('--json', metavar='FILE', help='save figures and analysis for other programs')
    show = 'save every image with ground truth and detections'
    parser.add_argument('--show-dir', metavar='FOLDER', help=show)
    source = "that an exported file is compared with (default: the one in the file's folder, if it is there)"
    parser.add_argument('--checkpoint', dest='weights', metavar='FILE', help=source)
    fast = 'fold norms and branches first: the same boxes, sooner'
    parser.add_argument('--fast', action='store_true', help=fast)
    return parser


def main() -> None:
    """Evaluate as the command line says."""
    args = parse(make_parser(), splits=('val',))
    if args.checkpoint.endswith(('.xml', '.onnx')):
        _test_exported(args)
        return
    if args.weights:
        raise UserError('--checkpoint: only to compare an exported file, .xml or .onnx, with')
    from ghost_det.engine.test import test
    from ghost_det.weights.checkpoint import checkpoint_classes, load_checkpoint

    content = load_checkpoint(args.checkpoint)
    test(
        args.config,
        args.checkpoint,
        data=data_of(args, checkpoint_classes(content)),
        content=content,
        work_dir=args.work_dir,
        options=args.cfg_options,
        launcher=args.launcher,
        backbone=args.backbone,
        out=args.out,
        json_file=args.json,
        show_dir=args.show_dir,
        fast=args.fast,
    )


def _test_exported(args: argparse.Namespace) -> None:
    for option in ('show_dir', 'backbone', 'fast'):
        if getattr(args, option):
            name = '--' + option.replace('_', '-')
            raise UserError(f'{name}: not for an exported detector; ghost-det detect draws what it finds')
    from ghost_det.deploy.detector import Detector
    from ghost_det.export.accuracy import evaluate_file

    data = data_of(args, Detector(args.checkpoint).classes)
    settings = (args.work_dir, args.out, args.json, args.weights)
    for line in evaluate_file(args.checkpoint, args.config, args.cfg_options, data, *settings):
        print(line, flush=True)

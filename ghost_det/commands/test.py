"""Evaluate a detector with COCO's twelve figures."""

import argparse

from ghost_det.errors import UserError

from ._options import CHECKPOINT, TRAINED_CONFIG, add_run_options, load_data, read_launcher


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help=TRAINED_CONFIG)
    checkpoint = f'{CHECKPOINT}, or an exported detector (.xml, .onnx or .ncnn)'
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help=checkpoint)
    add_run_options(parser)
    out = 'save the detections: .json for COCO results (see ghost-det eval), or .pkl'
    parser.add_argument('--out', metavar='FILE', help=out)
    parser.add_argument('--json', dest='json_file', metavar='FILE', help='save figures and analysis as JSON')
    show = 'save every image with its ground truth and detections'
    parser.add_argument('--show-dir', metavar='FOLDER', help=show)
    fast = 'fuse norms and branches first: the same boxes, faster'
    parser.add_argument('--fast', action='store_true', help=fast)


def run(args: argparse.Namespace) -> None:
    read_launcher(args)
    if args.checkpoint.endswith(('.xml', '.onnx', '.ncnn')):
        _test_exported(args)
        return
    from ghost_det.engine.test import test
    from ghost_det.weights.checkpoint import checkpoint_classes, load_checkpoint

    content = load_checkpoint(args.checkpoint)
    load_data(args, checkpoint_classes(content))
    test(**vars(args), content=content)


def _test_exported(args: argparse.Namespace) -> None:
    for option in ('show_dir', 'backbone', 'fast'):
        if getattr(args, option):
            raise UserError(f'--{option.replace("_", "-")}: not supported for an exported detector')
    from ghost_det.deploy.detector import Detector
    from ghost_det.export.accuracy import evaluate_file

    load_data(args, Detector(args.checkpoint).classes)
    settings = (args.options, args.data, args.work_dir, args.out, args.json_file)
    for line in evaluate_file(args.checkpoint, args.config, *settings):
        print(line, flush=True)

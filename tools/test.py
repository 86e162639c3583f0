"""Evaluate a detector: python tools/test.py CONFIG CHECKPOINT [--data sample|FOLDER] [options]."""

import argparse

from ghost_det.checkpoint import checkpoint_classes, load_checkpoint
from ghost_det.cli import add_common, data_of, parse
from ghost_det.errors import UserError, run_tool
from ghost_det.run import test


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate a detector with COCO's twelve figures.")
    parser.add_argument('config', help='the config file that the detector was trained with')
    parser.add_argument(
        'checkpoint',
        help='its weights, as work_dirs/CONFIG/epoch_24.pth, or an exported file, .xml or .onnx',
    )
    add_common(parser)
    parser.add_argument(
        '--out', metavar='FILE', help='save the predictions: .json for COCO results (tools/eval.py), or .pkl'
    )
    parser.add_argument('--json', metavar='FILE', help='save figures and analysis for other programs')
    parser.add_argument('--show-dir', metavar='FOLDER', help='save every image with true and found boxes')
    parser.add_argument(
        '--fast', action='store_true', help='fold norms and branches first: the same boxes, sooner'
    )
    args = parse(parser)
    if args.checkpoint.endswith(('.xml', '.onnx')):
        test_exported(args)
        return
    test(
        args.config,
        args.checkpoint,
        data=data_of(args, checkpoint_classes(load_checkpoint(args.checkpoint))),
        work_dir=args.work_dir,
        options=args.cfg_options,
        launcher=args.launcher,
        backbone=args.backbone,
        out=args.out,
        json_file=args.json,
        show_dir=args.show_dir,
        fast=args.fast,
    )


def test_exported(args: argparse.Namespace) -> None:
    for option, given in (
        ('--show-dir', args.show_dir),
        ('--backbone', args.backbone),
        ('--fast', args.fast),
    ):
        if given:
            raise UserError(f'{option}: not for an exported detector; tools/detect.py draws what it finds')
    from ghost_det.config import load_config
    from ghost_det.deploy.accuracy import evaluate_file
    from ghost_det.deploy.runtime import Detector

    data = data_of(args, Detector(args.checkpoint).classes)
    cfg = load_config(args.config, args.cfg_options)
    settings = (args.work_dir, args.out, args.json)
    for line in evaluate_file(args.checkpoint, args.config, cfg, data, *settings):
        print(line, flush=True)


if __name__ == '__main__':
    run_tool(main)

"""Train a detector: python tools/train.py CONFIG [--data sample|FOLDER] [options]."""

import argparse

from ghost_det.cli import add_common, data_of, parse, whole
from ghost_det.errors import run_tool
from ghost_det.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description='Train a detector and evaluate it.')
    parser.add_argument('config', help='a config file, as configs/retinanet_ghostnet_fpn_lite.py')
    add_common(parser)
    parser.add_argument('--epochs', type=whole, help='length of training; the schedule follows')
    parser.add_argument('--batch-size', type=whole, help='images a step, on each device')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from the last, or this, checkpoint',
    )
    parser.add_argument(
        '--pretrained',
        metavar='SOURCE',
        help="weights of the backbone instead of the config's: none, a name as ghostnet_100, a file, a URL",
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (GPU)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help="fit the learning rate to this run's batch"
    )
    parser.add_argument('--tensorboard', action='store_true', help='write TensorBoard logs as well')
    args = parse(parser)
    train(
        args.config,
        data=data_of(args),
        work_dir=args.work_dir,
        options=args.cfg_options,
        launcher=args.launcher,
        backbone=args.backbone,
        epochs=args.epochs,
        batch_size=args.batch_size,
        resume=args.resume,
        pretrained=args.pretrained,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        tensorboard=args.tensorboard,
    )


if __name__ == '__main__':
    run_tool(main)

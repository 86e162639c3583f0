"""Train a detector."""

import argparse

from ._options import CONFIG, COUNT, Parser, add_common, data_of, parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description='Train a detector and evaluate it.')
    parser.add_argument('config', metavar='CONFIG', help=CONFIG)
    add_common(parser)
    parser.add_argument('--epochs', **COUNT, help='length of training; the schedule follows')
    parser.add_argument('--batch-size', **COUNT, help='images a step, on each device')
    resume = 'resume from the last, or this, checkpoint'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=resume)
    source = "weights of the backbone instead of the config's: none, a name as ghostnet_100, a file, a URL"
    parser.add_argument('--pretrained', metavar='SOURCE', help=source)
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    fit = "fit the learning rate to this run's batch"
    parser.add_argument('--auto-scale-lr', action='store_true', help=fit)
    parser.add_argument('--tensorboard', action='store_true', help='write TensorBoard logs as well')
    return parser


def main() -> None:
    """Train as the command line says."""
    args = parse(make_parser(), splits=('train', 'val'))
    from ghost_det.engine.train import train

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

"""Train a detector and evaluate it."""

import argparse

from ._options import CONFIG, COUNT, add_run_options, known_source, load_data, read_launcher


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help=CONFIG)
    add_run_options(parser)
    parser.add_argument('--epochs', **COUNT, help='number of epochs; the schedule is scaled to it')
    patience = 'stop early: after N evaluations in a row that improve mAP by less than 0.001'
    parser.add_argument('--patience', **COUNT, help=patience)
    parser.add_argument('--batch-size', **COUNT, help='images per step and device')
    resume = 'resume from the latest checkpoint in the work folder, or from CHECKPOINT'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=resume)
    source = "start from other weights than the config's: none, a name such as ghostnet_100, a file or a URL"
    parser.add_argument('--pretrained', type=known_source, metavar='SOURCE', help=source)
    parser.add_argument('--amp', action='store_true', help='use mixed precision')
    scale = "scale the learning rate to this run's batch size"
    parser.add_argument('--auto-scale-lr', action='store_true', help=scale)
    parser.add_argument('--tensorboard', action='store_true', help='also write TensorBoard logs')


def run(args: argparse.Namespace) -> None:
    read_launcher(args)
    from ghost_det.engine.train import train

    load_data(args)
    train(**vars(args))

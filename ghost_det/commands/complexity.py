"""Count the parameters and multiply-adds of a detector."""

import argparse

from ._options import CONFIG, SIZE


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help=CONFIG)
    parser.add_argument('--size', **SIZE, help="input size (default: the config's)")


def run(args: argparse.Namespace) -> None:
    from ghost_det.config.load import load_config
    from ghost_det.config.query import input_size
    from ghost_det.engine.messages import BUILDING, explain_errors
    from ghost_det.swap.probe import build_detector, complexity

    cfg = load_config(args.config)
    size = args.size or input_size(cfg)
    with explain_errors(args.config, BUILDING):
        detector = build_detector(cfg.model)
    parts = complexity(detector, *size)
    total = tuple(map(sum, zip(*parts.values())))
    print(f'{"part":<12}{"parameters (M)":>16}{"multiply-adds (G)":>19}, {size[0]} x {size[1]}')
    for name, (parameters, macs) in (*parts.items(), ('all', total)):
        print(f'{name:<12}{parameters / 1e6:>16.2f}{macs / 1e9:>19.2f}')

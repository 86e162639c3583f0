"""Replace a config's backbone."""

import argparse

from ghost_det.errors import UserError

from ._options import CONFIG, SETTINGS, SIZE, positive_float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('config', metavar='CONFIG', help=CONFIG)
    parser.add_argument('-o', '--out', metavar='MINE.py', help='the config to write (default: none)')
    backbone = 'the new backbone, for example GhostNet:1.3 (default: %(default)s)'
    parser.add_argument('--backbone', default='GhostNet', metavar='NAME[:WIDTH]', help=backbone)
    width = 'channel multiplier of a Ghost network'
    parser.add_argument('--width', type=positive_float, metavar='FACTOR', help=width)
    source = 'backbone weights: none, a name such as ghostnet_100, a file or a URL (default: published ones)'
    parser.add_argument('--pretrained', metavar='SOURCE', help=source)
    settings = "the backbone's own arguments, for example depth=50 for ResNet"
    parser.add_argument('--settings', **SETTINGS, default={}, help=settings)
    keep = "the old detector's checkpoint; what fits of its neck and heads is saved next to MINE.py"
    parser.add_argument('--keep-weights', metavar='OLD.pth', help=keep)
    size = "input size for the multiply-adds (default: the config's)"
    parser.add_argument('--size', **SIZE, help=size)
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')


def run(args: argparse.Namespace) -> None:
    """Swap as the command line says."""
    from ghost_det.config.query import get_path, input_size
    from ghost_det.swap.family import family_table
    from ghost_det.swap.swap import parse_backbone, swap
    from ghost_det.swap.weights import keep_weights

    name, settings = parse_backbone(args.backbone)
    if args.width is not None:
        settings['width'] = args.width
    if args.keep_weights and not args.out:
        raise UserError('--keep-weights: needs -o MINE.py, next to which it writes')
    swapped = swap(args.config, name, args.pretrained, **settings, **args.settings)
    kept = keep_weights(swapped.config, args.keep_weights, args.out) if args.keep_weights else None
    size = args.size or input_size(swapped.source)
    tables = [swapped.table(*size)]  # may refuse the size, before -o
    tables += family_table(get_path(swapped.config, swapped.place).backbone, *size)
    if args.out:
        print(f'{args.out}:\n{swapped.write(args.out, args.force)}')
    if kept:
        kept.write()
    print('\n'.join([*swapped.notes, *([str(kept)] if kept else [])]), end='\n\n')
    print('\n\n'.join(tables))

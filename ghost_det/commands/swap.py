"""Replace a config's backbone."""

import argparse

from ._options import CONFIG, SETTINGS, SIZE, positive_float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('config', metavar='CONFIG', help=CONFIG)
    parser.add_argument('-o', '--out', metavar='MINE.py', help='the config to write (default: none)')
    backbone = 'the new backbone, for example GhostNetV2:1.3 (default: %(default)s)'
    parser.add_argument('--backbone', default='GhostNetV2', metavar='NAME[:WIDTH]', help=backbone)
    width = 'channel multiplier of a Ghost network'
    parser.add_argument('--width', type=positive_float, metavar='FACTOR', help=width)
    source = 'backbone weights: none, a name such as ghostnet_100, a file or a URL (default: published ones)'
    parser.add_argument('--pretrained', metavar='SOURCE', help=source)
    settings = "the backbone's own arguments, for example depth=50 for ResNet"
    parser.add_argument('--settings', **SETTINGS, default={}, help=settings)
    size = "input size for the multiply-adds (default: the config's)"
    parser.add_argument('--size', **SIZE, help=size)
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')


def run(args: argparse.Namespace) -> None:
    """Swap as the command line says."""
    from ghost_det.config.query import input_size
    from ghost_det.swap.swap import parse_backbone, swap

    name, settings = parse_backbone(args.backbone)
    if args.width is not None:
        settings['width'] = args.width
    swapped = swap(args.config, name, args.pretrained, **settings, **args.settings)
    table = swapped.table(*(args.size or input_size(swapped.source)))  # may refuse the size, before -o
    if args.out:
        print(f'{args.out}:\n{swapped.write(args.out, args.force)}')
    print('\n'.join(swapped.notes), end='\n\n')
    print(table)

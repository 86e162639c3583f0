"""Put another backbone into the config of a detector."""

import argparse

from ._options import CONFIG, SETTINGS, SIZE, Parser, parse, positive_float


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description='Put another backbone into the config of a detector.')
    parser.add_argument('config', metavar='CONFIG', help=CONFIG)
    parser.add_argument('-o', '--out', metavar='MY_CONFIG', help='the config to write (default: none)')
    parser.add_argument('--backbone', default='GhostNetV2', metavar='NAME[:WIDTH]', help='as GhostNetV2:1.3')
    width = 'multiplier of the channels of a Ghost network'
    parser.add_argument('--width', type=positive_float, metavar='FACTOR', help=width)
    source = 'weights of the backbone: none, a name as ghostnet_100, a file, a URL (default: the published)'
    parser.add_argument('--pretrained', metavar='SOURCE', help=source)
    settings = "the backbone's own arguments, as depth=50 for ResNet"
    parser.add_argument('--settings', **SETTINGS, default={}, help=settings)
    size = "of the input, for the multiply-adds (default: the config's)"
    parser.add_argument('--size', **SIZE, help=size)
    parser.add_argument('--force', action='store_true', help='overwrite the output')
    return parser


def main() -> None:
    """Swap as the command line says."""
    args = parse(make_parser())
    from ghost_det.config.query import input_size
    from ghost_det.swap.swap import parse_backbone, swap

    name, settings = parse_backbone(args.backbone)
    if args.width is not None:
        settings['width'] = args.width
    swapped = swap(args.config, name, args.pretrained, **settings, **args.settings)
    size = args.size or input_size(swapped.source)
    table = swapped.table(*size)  # before the file is written, as it may refuse the size
    if args.out:
        print(f'{args.out} is written:\n{swapped.write(args.out, args.force)}')
    print('\n'.join(swapped.notes), end='\n\n')
    print(table)

"""Replace a config's backbone."""

import argparse
from pathlib import Path

from ghost_det.errors import UserError

from ._options import CONFIG, SETTINGS, SIZE, known_source, positive_float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help=CONFIG)
    parser.add_argument('-o', '--out', metavar='MINE.py', help='the config to write (default: none)')
    backbone = 'the new backbone, for example GhostNet:1.3 (default: %(default)s)'
    parser.add_argument('--backbone', default='GhostNet', metavar='NAME[:WIDTH]', help=backbone)
    width = 'channel multiplier of a Ghost network'
    parser.add_argument('--width', type=positive_float, metavar='FACTOR', help=width)
    source = 'backbone weights: none, a name such as ghostnet_100, a file or a URL (default: published ones)'
    parser.add_argument('--pretrained', type=known_source, metavar='SOURCE', help=source)
    settings = "the backbone's own arguments, for example depth=50 for ResNet"
    parser.add_argument('--settings', **SETTINGS, default={}, help=settings)
    keep = 'checkpoint of the old detector; saves what fits of its neck and heads next to MINE.py'
    parser.add_argument('--keep-weights', metavar='OLD.pth', help=keep)
    size = "input size for the multiply-adds (default: the config's)"
    parser.add_argument('--size', **SIZE, help=size)
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')


def run(args: argparse.Namespace) -> None:
    from ghost_det.config.query import get_path, input_size
    from ghost_det.models import NETWORKS
    from ghost_det.swap.swap import family_table, parse_backbone, swap
    from ghost_det.swap.weights import keep_weights, write_weights

    if args.keep_weights and not args.out:
        raise UserError('--keep-weights needs -o MINE.py: it writes next to that file')
    name, settings = parse_backbone(args.backbone)
    if args.width is not None:
        settings['width'] = args.width
    swapped = swap(args.config, name, args.pretrained, **settings, **args.settings)
    size = args.size or input_size(swapped.source)
    tables = [swapped.table(*size)]  # may refuse the size, before -o
    if name in NETWORKS:
        tables.append(family_table(get_path(swapped.config, swapped.place).backbone, *size))
    notes = list(swapped.notes)
    if args.keep_weights:
        file = Path(args.out).with_suffix('.kept.pth')
        tensors, lines = keep_weights(swapped.config, args.keep_weights, file)
        notes += lines
    if args.out:
        print(f'{args.out}:\n{swapped.write(args.out, args.force)}')
    if args.keep_weights:
        write_weights(tensors, file)
    print('\n'.join(notes), end='\n\n')
    print('\n\n'.join(tables))

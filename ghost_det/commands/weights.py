"""List, download, verify and extract backbone weights."""

import argparse

from ghost_det.utils.system import require_torch
from ghost_det.utils.text import plural

from ._options import add_command


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_command(commands, 'list', _list, 'List the published ImageNet weights')
    command = add_command(commands, 'show', _show, 'Show details of published weights')
    command.add_argument('name', metavar='NAME', help='a name from the list')
    command = add_command(commands, 'download', _download, 'Download published weights and verify them')
    command.add_argument('names', nargs='+', metavar='NAME', help="names from the list, or 'all'")
    source = 'default: the Hugging Face hub, then upstream'
    command.add_argument('--source', choices=['hub', 'upstream'], help=source)
    command = add_command(commands, 'verify', _verify, 'Load weights into their network to verify them')
    command.add_argument('sources', nargs='+', metavar='SOURCE', help='a file, a name from the list or a URL')
    command = add_command(commands, 'extract', _extract, "Write a detector's backbone to a file")
    checkpoint = 'a checkpoint, such as work_dirs/CONFIG/epoch_24.pth'
    command.add_argument('checkpoint', metavar='CHECKPOINT', help=checkpoint)
    command.add_argument('-o', '--out', required=True, metavar='FILE.safetensors', help='the file to write')
    prefix = 'prefix of the backbone in the checkpoint (default: %(default)s)'
    command.add_argument('--prefix', default='backbone', help=prefix)


def run(args: argparse.Namespace) -> None:
    require_torch('ghost-det weights')
    args.work(args)


def _list(args: argparse.Namespace) -> None:
    from ghost_det.weights.catalog import PUBLISHED, SHIPPED

    print(f'{"name":<17}{"network":<13}{"width":>5}{"params (M)":>12}{"MACs (M)":>10}{"top-1":>8}  licence')
    for w in PUBLISHED.values():
        row = f'{w.name:<17}{w.network:<13}{w.width:>5g}{w.params:>12}{w.macs:>10}{w.top1:>8.2f}  {w.licence}'
        print(row)
    for shipped in SHIPPED.values():
        print(f'{shipped.name:<17}comes with ghost_det: {shipped.result}; {shipped.licence}')


def _show(args: argparse.Namespace) -> None:
    from ghost_det.weights.catalog import DETECTOR, published

    weights = published(args.name)
    config = f"init_cfg=dict(type='Pretrained', checkpoint='ghost://{weights.name}')"
    if weights.name == DETECTOR:
        config += f" (with last_blocks=2) or load_from='ghost://{DETECTOR}'"
    more = {'licence': weights.licence, 'hub': weights.url and weights.hub, 'config': config}
    for name, value in {**vars(weights), **more}.items():
        if value:
            print(f'{name:<10}{value}')


def _download(args: argparse.Namespace) -> None:
    from ghost_det.weights.catalog import PUBLISHED, published
    from ghost_det.weights.download import fetch
    from ghost_det.weights.zoo import verify

    for weights in PUBLISHED.values() if args.names == ['all'] else map(published, args.names):
        path = fetch(weights, [args.source] if args.source else ('hub', 'upstream'))
        print(f'{weights.name}: {path}')
        print(f'  {verify(path, weights)}')


def _verify(args: argparse.Namespace) -> None:
    from ghost_det.utils.files import sha256
    from ghost_det.weights.download import locate
    from ghost_det.weights.zoo import verify

    for source in args.sources:
        print(f'{verify(source)}; SHA-256 {sha256(locate(source))}')


def _extract(args: argparse.Namespace) -> None:
    from ghost_det.weights.load import describe, extract_backbone
    from ghost_det.weights.zoo import verify

    own = extract_backbone(args.checkpoint, args.out, args.prefix)
    print(f'{args.out}: {plural(len(own), "tensor")}')
    if describe(own) is not None:
        print(verify(args.out))

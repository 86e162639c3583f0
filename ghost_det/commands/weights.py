"""List, fetch, verify and extract weights."""

import argparse

from ghost_det.utils.system import require_torch
from ghost_det.utils.text import plural

from ._options import Parser, parse


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(description='Published ImageNet weights, and files of weights.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    commands.add_parser('list', help='what there is')
    command = commands.add_parser('show', help='all that is known of published weights')
    command.add_argument('name', metavar='NAME')
    command = commands.add_parser('download', help='have the file here, and prove it')
    command.add_argument('names', nargs='+', metavar='NAME', help="names of the list, or 'all'")
    command.add_argument('--source', choices=['hub', 'upstream'], help='default: the hub, then upstream')
    command = commands.add_parser('verify', help='load files into the networks that they are of')
    command.add_argument('sources', nargs='+', metavar='SOURCE', help='a file, a name of the list, or a URL')
    command = commands.add_parser('extract', help="write a detector's backbone as a file of its own")
    command.add_argument('checkpoint', metavar='CHECKPOINT', help='as work_dirs/CONFIG/epoch_24.pth')
    command.add_argument('-o', '--out', required=True, metavar='FILE.safetensors')
    command.add_argument('--prefix', default='backbone', help='of its tensors (default: %(default)s)')
    return parser


def main() -> None:
    """Do as the command line says."""
    parser = make_parser()
    args = parse(parser, light=True)
    require_torch(parser.prog)
    from ghost_det.utils.files import sha256
    from ghost_det.weights.download import locate
    from ghost_det.weights.load import describe, extract_backbone
    from ghost_det.weights.zoo import verify

    if args.command == 'list':
        _list()
    elif args.command == 'show':
        _show(args.name)
    elif args.command == 'download':
        _download(args.names, args.source)
    elif args.command == 'verify':
        for source in args.sources:
            print(f'{verify(source)}; SHA-256 {sha256(locate(source))}')
    else:
        own = extract_backbone(args.checkpoint, args.out, args.prefix)
        print(f'{args.out}: {plural(len(own), "tensor")}')
        if describe(own) is not None:
            print(verify(args.out))


def _list() -> None:
    from ghost_det.weights.catalog import PUBLISHED

    print(f'{"name":<17}{"network":<13}{"width":>5}{"params (M)":>12}{"MACs (M)":>10}{"top-1":>8}  licence')
    for w in PUBLISHED.values():
        row = f'{w.name:<17}{w.network:<13}{w.width:>5g}{w.params:>12}{w.macs:>10}{w.top1:>8.2f}  {w.licence}'
        print(row)


def _show(name: str) -> None:
    from ghost_det.weights.catalog import published

    w = published(name)
    print(f'{w.name}: {w.network} of width {w.width:g}, {w.params} M parameters, {w.macs} M multiply-adds,')
    print(f'ImageNet-1k top-1 {w.top1:.2f} % at 224 px; licence {w.licence}')
    print(f'hub       https://huggingface.co/{w.hub}, revision {w.revision}')
    print(f'          SHA-256 {w.sha256 or "not known beforehand: the one that the hub states is checked"}')
    print(f'upstream  {w.url}')
    print(f'          git hash {w.git_blob or "not known"}')
    print(f'config    backbone=dict(type={w.network!r}, width={w.width:g},')
    print(f"              init_cfg=dict(type='Pretrained', checkpoint='ghost://{w.name}'))")


def _download(names: list[str], source: str | None) -> None:
    from ghost_det.weights.catalog import PUBLISHED, published
    from ghost_det.weights.download import fetch
    from ghost_det.weights.zoo import verify

    for weights in PUBLISHED.values() if names == ['all'] else map(published, names):
        path = fetch(weights, [source] if source else ('hub', 'upstream'))
        print(f'{weights.name}: {path}')
        print(f'  {verify(path, weights)}')

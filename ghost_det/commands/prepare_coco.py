"""Download COCO 2017, verify or repair it."""

import argparse
import contextlib
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from ghost_det.utils.system import command

from ._options import COUNT, FOLDER, Parser, parse

_CONFIG = 'retinanet_ghostnet_fpn_lite'


def base_url(text: str) -> str:
    """Read the address of a server of http or https, as argparse's ``type``."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        host = (parts.hostname or '').encode('idna')  # as the connection does; the port is read, too
        if parts.scheme in ('http', 'https') and host and parts.port != 0 and not re.search(r'\s', text):
            return text.rstrip('/')
    raise argparse.ArgumentTypeError(f'expected http://... or https://..., got {text!r}')


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Download COCO 2017 (20.4 GB), verify or repair it. Run it again to resume after a stop.'
    )
    parser.add_argument('--root', **FOLDER, default=Path('data/coco'), help='default: %(default)s')
    what = parser.add_mutually_exclusive_group()
    subset = 'only N training and N/5 validation images, into ROOT-subset-N, for a first try'
    what.add_argument('--subset', **COUNT, help=subset)
    verify = 'change nothing; list what is missing or wrong (exit code 1)'
    what.add_argument('--verify', action='store_true', help=verify)
    both = ['train', 'val']
    parser.add_argument('--splits', nargs='+', choices=both, default=both, help='(default: both)')
    parser.add_argument('--jobs', **COUNT, default=8, help='parallel connections, and threads (default: 8)')
    mirror = 'a mirror, laid out as http://images.cocodataset.org (the default)'
    parser.add_argument('--url', type=base_url, metavar='BASE', help=mirror)
    return parser


def main() -> None:
    """Download or verify as the command line says; exit code 1 where a copy is not intact."""
    parser = make_parser()
    args = parse(parser, light=True)
    from ghost_det.data.coco import prepare, subset, verify

    root = args.root.expanduser()
    splits = list(dict.fromkeys(args.splits))
    if args.verify:
        states = verify(root, splits, args.jobs)
        print('\n'.join(line for state in states for line in state.lines(root)))
        if not all(state.intact for state in states):
            print(f'{command("prepare-coco", "--root", root)} downloads only what is missing or wrong')
            sys.exit(1)
        return
    if args.subset:
        root = subset(root, args.subset, splits, args.jobs, args.url)
    else:
        prepare(root, splits, args.jobs, args.url)
    data = [] if root == Path('data/coco') else ['--data', root]
    print(f'train with: {command("train", _CONFIG, *data)}')

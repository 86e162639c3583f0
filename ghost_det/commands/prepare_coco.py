"""Download COCO 2017 (20.4 GB), verify or repair it.

If it was stopped, run it again to resume.
"""

import argparse
import re
import sys
from pathlib import Path

from ghost_det.utils.system import command

from ._options import COUNT, FOLDER

_CONFIG = 'gfl_ghostnet_ghostpan_lite'


def base_url(text: str) -> str:
    """Parse the address of an HTTP server."""
    if re.fullmatch(r'https?://[\w-]+(\.[\w-]+)*(:\d{1,5})?(/\S*)?', text):
        return text.rstrip('/')
    raise argparse.ArgumentTypeError(f'expected http://... or https://..., got {text!r}')


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--root', **FOLDER, default=Path('data/coco'), help='default: %(default)s')
    what = parser.add_mutually_exclusive_group()
    subset = 'download only N training and N/5 validation images, into ROOT-subset-N'
    what.add_argument('--subset', **COUNT, help=subset)
    verify = 'only list what is missing or wrong (exit code 1 if anything is)'
    what.add_argument('--verify', action='store_true', help=verify)
    both = ['train', 'val']
    parser.add_argument('--splits', nargs='+', choices=both, default=both, help='default: both')
    jobs = 'parallel connections and threads (default: %(default)s)'
    parser.add_argument('--jobs', **COUNT, default=8, help=jobs)
    mirror = 'a mirror with the layout of http://images.cocodataset.org (the default)'
    parser.add_argument('--url', type=base_url, metavar='BASE', help=mirror)


def run(args: argparse.Namespace) -> None:
    from ghost_det.data.coco import prepare, subset, verify

    root = args.root.expanduser()
    splits = list(dict.fromkeys(args.splits))
    if args.verify:
        states = verify(root, splits, args.jobs)
        print('\n'.join(line for state in states for line in state.lines(root)))
        if not all(state.intact for state in states):
            print(f'run {command("prepare-coco", "--root", root)} to download what is missing or wrong')
            sys.exit(1)
        return
    if args.subset:
        root = subset(root, args.subset, splits, args.jobs, url=args.url)
    else:
        prepare(root, splits, args.jobs, url=args.url)
    data = [] if root == Path('data/coco') else ['--data', root]
    print(f'train with: {command("train", _CONFIG, *data)}')

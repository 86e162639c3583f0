"""COCO 2017 into data/coco: python tools/prepare_coco.py [--subset N | --verify] [options]."""

import argparse
import sys
from pathlib import Path

from ghost_det.cli import parse
from ghost_det.coco import COCO, prepare, subset, verify
from ghost_det.errors import run_tool

CONFIG = 'configs/retinanet_ghostnet_fpn_lite.py'


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fetch COCO 2017 (20.4 GB), verify or repair it. After a stop, run it again: it goes on.'
    )
    parser.add_argument('--root', type=Path, default=Path('data/coco'), help='default: %(default)s')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--subset',
        type=int,
        metavar='N',
        help='only N training and N/5 validation images, into ROOT-subset-N, for a first try',
    )
    what.add_argument(
        '--verify', action='store_true', help='change nothing; say what is missing or wrong (exit code 1)'
    )
    parser.add_argument('--splits', nargs='+', choices=list(COCO.parts), default=list(COCO.parts))
    parser.add_argument('--jobs', type=int, default=8, help='connections at once, and threads (default: 8)')
    parser.add_argument('--keep-zips', action='store_true', help='leave the archives there')
    parser.add_argument('--url', metavar='BASE', help=f'a mirror, laid out as {COCO.url} (the default)')
    args = parse(parser)
    if args.jobs < 1 or (args.subset is not None and args.subset < 1):
        parser.error('--jobs and --subset: a number from 1 up')
    root = args.root.expanduser()
    splits = list(dict.fromkeys(args.splits))
    url = args.url and args.url.rstrip('/')
    if args.verify:
        states = verify(root, splits, args.jobs)
        print('\n'.join(line for state in states for line in state.lines(root)))
        if not all(state.whole for state in states):
            print(f'python tools/prepare_coco.py --root {root} fetches what is missing or wrong, no more')
            sys.exit(1)
        return
    if args.subset:
        root = subset(root, args.subset, splits, args.jobs, args.keep_zips, url)
    else:
        prepare(root, splits, args.jobs, args.keep_zips, url)
    data = '' if root == Path('data/coco') else f' --data {root}'
    print(f'train with: python tools/train.py {CONFIG}{data}')


if __name__ == '__main__':
    run_tool(main)

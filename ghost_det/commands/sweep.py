"""Put a backbone under every kind of detector of mmdet: a tool of the clone, whose page it writes."""

import argparse
import os
import sys
from pathlib import Path

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic

from ._options import Parser, parse, positive, whole


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='Swap the backbone of each kind of detector that mmdet ships, train a step, predict.'
    )
    parser.add_argument(
        'folders', nargs='*', help="of mmdet's configs, or configs as mmdet::... (default: all)"
    )
    parser.add_argument('--backbone', default='GhostNet', metavar='NAME[:WIDTH]', help='default: GhostNet')
    parser.add_argument('-o', '--out', type=Path, metavar='TABLE.md', help='the table (default: printed)')
    parser.add_argument('--jobs', type=whole, default=os.cpu_count() or 1, help='at once, of one thread each')
    parser.add_argument('--timeout', type=positive, default=600, help='seconds for one config (default: 600)')
    return parser


def main() -> None:
    """Sweep as the command line says."""
    args = parse(make_parser())
    from ghost_det.sweep import find_configs, page, sweep

    if args.out:
        try:
            with atomic(args.out.with_name(f'.{args.out.name}.try')) as partial:
                partial.touch()
            args.out.with_name(f'.{args.out.name}.try').unlink()
        except OSError as error:  # now, not after an hour
            raise UserError(f'-o {args.out}: cannot be written ({error.strerror})') from None
    outcomes = sweep(find_configs(args.folders), args.backbone, args.jobs, args.timeout)
    command = ' '.join(['python tools/sweep.py', *args.folders, '--backbone', args.backbone])
    text = page(outcomes, args.backbone, command)
    if args.out:
        with atomic(args.out) as partial:
            partial.write_text(text, encoding='utf-8')
    else:
        print(text)
    failed = [o.config for o in outcomes if o.result == 'fails']
    if failed:
        raise UserError(f'{len(failed)} of {len(outcomes)} fail: {", ".join(failed)}')
    print(f'{len(outcomes)} configs, none fails', file=sys.stderr)

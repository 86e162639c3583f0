"""List the included configs, or start your own from one.

Costs are for 80 classes. Your own config inherits from the included one.
"""

import argparse

from ghost_det.config import shipped
from ghost_det.errors import UserError
from ghost_det.utils.system import command

from ._options import register


def add_options(parser: argparse.ArgumentParser) -> None:
    name = 'show only this one, or inherit from it'
    parser.add_argument('name', nargs='?', metavar='NAME', choices=shipped.names(), help=name)
    parser.add_argument('-o', '--out', metavar='MINE.py', help='the config to write')
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')


def run(args: argparse.Namespace) -> None:
    if args.out and not args.name:
        raise UserError(f'-o {args.out}: expected the NAME to inherit from: {", ".join(shipped.names())}')
    if not args.out:
        for name in [args.name] if args.name else shipped.names():
            print('\n    '.join([name, *shipped.purpose(name)]))
        return
    register('writing a config')
    from ghost_det.config.load import load_config
    from ghost_det.config.write import write_child

    base = f'{shipped.PREFIX}{args.name}.py'
    print(write_child(args.out, base, load_config(base), shipped.purpose(args.name)[0], args.force), end='')
    print(f'\nWritten. Edit it, then run: {command("train", args.out, "--data", "FOLDER")}')

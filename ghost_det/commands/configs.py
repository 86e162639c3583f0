"""List the configs that come with this, or start one of your own."""

import argparse

from ghost_det.config import shipped
from ghost_det.errors import UserError
from ghost_det.utils.system import command

from ._options import Parser, parse, register


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        description='List the configs that come with this, with what they cost (with 80 classes), '
        'or start one of your own that inherits from one of them.'
    )
    parser.add_argument('name', nargs='?', metavar='NAME', choices=shipped.names(), help='one of them')
    parser.add_argument('-o', '--out', metavar='MINE.py', help='the config to write')
    parser.add_argument('--force', action='store_true', help='overwrite it')
    return parser


def main() -> None:
    """List, show or write as the command line says."""
    args = parse(make_parser(), light=True)
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
    print(f'\nWritten. Change what you like, then: {command("train", args.out, "--data", "FOLDER")}')

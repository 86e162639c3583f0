"""List the included configs, or start your own from one."""

import argparse

from ghost_det.config import shipped
from ghost_det.errors import UserError
from ghost_det.utils.system import command

from ._options import parse, register


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description='List the included configs with their cost (for 80 classes), or start your own config '
        'that inherits from one of them.'
    )
    name = 'show only this one, or inherit from it'
    parser.add_argument('name', nargs='?', metavar='NAME', choices=shipped.names(), help=name)
    parser.add_argument('-o', '--out', metavar='MINE.py', help='the config to write')
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')
    return parser


def main() -> None:
    """List, show or write configs."""
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
    print(f'\nWritten. Edit it, then run: {command("train", args.out, "--data", "FOLDER")}')

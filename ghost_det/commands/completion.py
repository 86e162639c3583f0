"""Print the completion of ``ghost-det`` for a shell."""

import argparse
import importlib
from typing import Any

from ghost_det.config import shipped
from ghost_det.errors import UserError
from ghost_det.utils.system import COMMAND, missing

from ._options import parse

_PLACES = {
    'bash': '~/.local/share/bash-completion/completions/ghost-det',
    'zsh': '~/.zfunc/_ghost-det   # and before compinit in ~/.zshrc: fpath+=~/.zfunc',
    'fish': '~/.config/fish/completions/ghost-det.fish',
}
_FUNCTION = '_ghost_det_configs'


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description='Print the completion of ghost-det for a shell. Save it once:',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n'.join(f'  {COMMAND} completion {shell:<5}> {place}' for shell, place in _PLACES.items()),
    )
    parser.add_argument('shell', metavar='SHELL', choices=list(_PLACES), help='bash, zsh or fish')
    return parser


def main() -> None:
    """Print the completion, which holds the names of the configs, too."""
    args = parse(make_parser(), light=True)
    if missing(['shtab']):
        raise UserError('needs shtab: pip install "shtab>=1.13,<2"')
    import shtab

    names = ' '.join(shipped.names())
    functions = {
        'bash': f'{_FUNCTION}() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
        'zsh': f'{_FUNCTION}() {{ compadd {names}; _files }}',
        'fish': f'function {_FUNCTION}; printf "%s\\n" {names}; __fish_complete_path (commandline -ct); end',
    }
    configs = {'bash': _FUNCTION, 'zsh': _FUNCTION, 'fish': f'({_FUNCTION})'}
    print(shtab.complete(whole_parser(configs, shtab.FILE), args.shell, preamble=functions[args.shell]))


def whole_parser(configs: Any, files: Any) -> argparse.ArgumentParser:
    """Return one parser with all commands; ``configs`` completes names of configs, ``files`` the rest."""
    from . import GROUPS

    parser = argparse.ArgumentParser(COMMAND)
    commands = parser.add_subparsers()
    for name, what in (pair for group in GROUPS.values() for pair in group.items()):
        one = importlib.import_module(f'.{name.replace("-", "_")}', __package__).make_parser()
        commands.add_parser(name, help=what, description=what, parents=[one], add_help=False)
        _complete(one, configs, files)
    return parser


def _complete(parser: argparse.ArgumentParser, configs: Any, files: Any) -> None:
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for each in action.choices.values():
                _complete(each, configs, files)
        elif action.nargs != 0 and action.choices is None:
            named = action.metavar in ('CONFIG', 'MODEL')  # a model may be a config and then its checkpoint
            action.complete = configs if named else files  # type: ignore[attr-defined]

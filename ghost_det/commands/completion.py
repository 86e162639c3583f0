"""Print a completion script for your shell."""

import argparse

from ghost_det.config import shipped
from ghost_det.errors import UserError
from ghost_det.utils.system import COMMAND, missing

_FILES = {
    'bash': '~/.local/share/bash-completion/completions/ghost-det',
    'zsh': '~/.zfunc/_ghost-det   # with fpath+=~/.zfunc before compinit in ~/.zshrc',
    'fish': '~/.config/fish/completions/ghost-det.fish',
}
_FUNCTION = '_ghost_det_configs'


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = '\n'.join(f'  {COMMAND} completion {shell:<5}> {file}' for shell, file in _FILES.items())
    parser.add_argument('shell', metavar='SHELL', choices=list(_FILES), help='bash, zsh or fish')


def run(args: argparse.Namespace) -> None:
    """Print the completion script, which includes the names of the configs."""
    if missing(['shtab']):
        raise UserError('completion needs shtab: pip install "shtab>=1.13,<2"')
    import shtab

    from . import COMMANDS, make_parser

    names = ' '.join(shipped.names())
    functions = {
        'bash': f'{_FUNCTION}() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
        'zsh': f'{_FUNCTION}() {{ compadd {names}; _files }}',
        'fish': f'function {_FUNCTION}; printf "%s\\n" {names}; __fish_complete_path (commandline -ct); end',
    }
    configs = {'bash': _FUNCTION, 'zsh': _FUNCTION, 'fish': f'({_FUNCTION})'}
    parser = argparse.ArgumentParser(COMMAND)
    commands = parser.add_subparsers()
    for name in COMMANDS:
        command = make_parser(name)
        commands.add_parser(name, help=command.description, parents=[command], add_help=False)
        _complete(command, configs, shtab.FILE)
    print(shtab.complete(parser, args.shell, preamble=functions[args.shell]))


def _complete(parser: argparse.ArgumentParser, configs: object, files: object) -> None:
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for each in action.choices.values():
                _complete(each, configs, files)
        elif action.nargs != 0 and action.choices is None:
            action.complete = configs if action.metavar in ('CONFIG', 'MODEL') else files  # type: ignore[attr-defined]

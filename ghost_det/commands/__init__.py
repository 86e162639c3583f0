"""The command ``ghost-det``, one module per subcommand, whose docstring is the help.

``add_options`` adds its options to a parser, and ``run`` does what a command line asks for.

Building a parser imports neither torch nor MMDetection, so ``--help`` is fast.
"""

import argparse
import os
import sys
from importlib import import_module
from typing import Any

from ghost_det import __version__
from ghost_det.errors import UserError, run_tool
from ghost_det.utils.system import COMMAND

from ._options import register, require_data

GROUPS = {
    'Data': ('check-data', 'prepare-coco'),
    'Detectors': ('configs', 'swap', 'complexity', 'train', 'test', 'eval', 'compare'),
    'Use': ('export', 'detect', 'detect-many', 'demo', 'weights', 'classify', 'visualize'),
    'This machine': ('doctor', 'benchmark', 'completion'),
}
"""The commands by topic; their modules have underscores instead of dashes."""
COMMANDS = [name for commands in GROUPS.values() for name in commands]
WITH_MMDET = ('swap', 'complexity', 'train', 'test', 'eval', 'compare', 'export', 'visualize')
"""The commands that always need MMDetection; others import it where they do."""


def usage() -> str:
    """Return what ``ghost-det --help`` prints."""
    lines = [f'usage: {COMMAND} COMMAND ...', '', 'GhostNet detectors: from your data to a fast file.']
    for title, commands in GROUPS.items():
        lines += ['', f'{title}:']
        lines += [f'  {name:<14}{_load(name).__doc__.splitlines()[0]}' for name in commands]
    start = f'{COMMAND} train gfl_ghostnet_ghostpan_lite --data sample --epochs 4'
    return '\n'.join([*lines, '', f'To try it: {start}', f'For details: {COMMAND} COMMAND --help'])


def make_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command; its module's docstring is the description."""
    command = _load(name)
    parser = argparse.ArgumentParser(f'{COMMAND} {name}', description=command.__doc__)
    command.add_options(parser)
    # Only for --help: `run_tool` removes it from the command line.
    parser.add_argument('--traceback', action='store_true', help='show the traceback of an error')
    return parser


def run() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help'):
        print(usage())
    elif name == '--version':
        print(f'{COMMAND} {__version__}')
    elif name in COMMANDS:
        args = make_parser(name).parse_args(sys.argv[2:])
        del args.traceback
        # OpenCV reads these when it is imported; we report damaged videos ourselves.
        os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', '100000000')
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        if 'val_share' in args:
            require_data(args)
        if name in WITH_MMDET:
            register(f'{COMMAND} {name}')
        _load(name).run(args)
    else:
        raise UserError(f'{name}: no such command; choose from {", ".join(COMMANDS)}')


def _load(name: str) -> Any:
    return import_module(f'.{name.replace("-", "_")}', __package__)


def main() -> None:
    """Run the program ``ghost-det``."""
    run_tool(run)

"""The command ``ghost-det``: one module for each of its commands.

A command's parser needs neither torch nor MMDetection, so that ``--help`` is quick; its work imports them.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from ghost_det import __version__
from ghost_det.errors import UserError, run_tool
from ghost_det.utils.system import COMMAND

GROUPS = {
    'Data': {
        'check-data': 'look for problems in a data set',
        'prepare-coco': 'fetch COCO 2017, verify or repair it',
    },
    'Detectors': {
        'configs': 'list the configs that come with this, or start one of your own',
        'swap': 'put another backbone into a config',
        'complexity': 'count parameters and multiply-adds',
        'train': 'train a detector and evaluate it',
        'test': 'evaluate a detector',
        'eval': 'evaluate saved detections',
        'compare': 'put trainings side by side',
    },
    'Use': {
        'export': 'write a trained detector as one file that needs no torch',
        'detect': 'find objects in images and videos',
        'detect-many': 'find objects in any number of images, by many processes or machines',
        'demo': 'try detectors on a page in the browser',
        'weights': 'list, fetch, verify and extract weights of backbones',
        'classify': "name what images show, by ImageNet's classes",
        'visualize': 'draw feature maps, ghosts, and what carried a detection',
    },
    'This machine': {
        'doctor': 'examine the installation and print how to fix it',
        'benchmark': 'time detectors on this machine, alternating',
        'completion': 'print the completion for your shell',
    },
}
"""The commands, with dashes where their modules have underscores, and what each is for."""
COMMANDS = [name for commands in GROUPS.values() for name in commands]


def usage() -> str:
    """Return what ``ghost-det --help`` prints."""
    lines = [f'usage: {COMMAND} COMMAND ...', '', 'GhostNet detectors: from your data to a fast file.']
    for title, commands in GROUPS.items():
        lines += ['', f'{title}:', *(f'  {name:<14}{what}' for name, what in commands.items())]
    start = f'{COMMAND} train retinanet_ghostnet_fpn_lite --data sample --epochs 8 --pretrained none'
    return '\n'.join([*lines, '', f'A first try: {start}', f'All of a command: {COMMAND} COMMAND --help'])


def run() -> None:
    """Run the command that the first argument names."""
    _, name, *words = [*sys.argv, '--help'][: max(2, len(sys.argv))]
    if name in ('-h', '--help'):
        print(usage())
    elif name == '--version':
        print(f'{COMMAND} {__version__}')
    elif name in COMMANDS:
        sys.argv = [f'{COMMAND} {name}', *words]  # as argparse then has it in its usage
        # OpenCV looks at these when it is first imported; of a damaged video we say more ourselves.
        os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', '100000000')
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        import_module(f'.{name.replace("-", "_")}', __package__).main()
    else:
        raise UserError(f'{name}: no such command; there are {", ".join(COMMANDS)}')


def main() -> None:
    """Run the program ``ghost-det``."""
    run_tool(run)

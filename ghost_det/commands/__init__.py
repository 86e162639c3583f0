"""The command ``ghost-det``, one module per subcommand.

Building a parser imports neither torch nor MMDetection, so ``--help`` is fast.
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
        'check-data': 'check a data set for problems',
        'prepare-coco': 'download, verify or repair COCO 2017',
    },
    'Detectors': {
        'configs': 'list the included configs, or start your own from one',
        'swap': "replace a config's backbone",
        'complexity': 'count parameters and multiply-adds',
        'train': 'train a detector and evaluate it',
        'test': 'evaluate a detector',
        'eval': 'evaluate saved detections',
        'compare': 'compare trainings side by side',
    },
    'Use': {
        'export': 'export a trained detector to a file that runs without torch',
        'detect': 'detect objects in images and videos',
        'detect-many': 'detect objects in large sets of images, in parallel',
        'demo': 'try detectors in the browser',
        'weights': 'list, download, verify and extract backbone weights',
        'classify': 'classify images with ImageNet classifiers',
        'visualize': 'draw feature maps, ghost features and class activations',
    },
    'This machine': {
        'doctor': 'check the installation and print how to fix it',
        'benchmark': 'measure the speed of detectors on this machine',
        'completion': 'print a completion script for your shell',
    },
}
"""The commands by topic; their modules have underscores instead of dashes."""
COMMANDS = [name for commands in GROUPS.values() for name in commands]


def usage() -> str:
    """Return what ``ghost-det --help`` prints."""
    lines = [f'usage: {COMMAND} COMMAND ...', '', 'GhostNet detectors: from your data to a fast file.']
    for title, commands in GROUPS.items():
        lines += ['', f'{title}:', *(f'  {name:<14}{what}' for name, what in commands.items())]
    start = f'{COMMAND} train retinanet_ghostnet_fpn_lite --data sample --epochs 8 --pretrained none'
    return '\n'.join([*lines, '', f'To try it: {start}', f'For details: {COMMAND} COMMAND --help'])


def run() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help'):
        print(usage())
    elif name == '--version':
        print(f'{COMMAND} {__version__}')
    elif name in COMMANDS:
        sys.argv = [f'{COMMAND} {name}', *sys.argv[2:]]  # argparse shows the first as the program
        # OpenCV reads these when it is imported; we report damaged videos ourselves.
        os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', '100000000')
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        import_module(f'.{name.replace("-", "_")}', __package__).main()
    else:
        raise UserError(f'{name}: no such command; choose from {", ".join(COMMANDS)}')


def main() -> None:
    """Run the program ``ghost-det``."""
    run_tool(run)

"""What the command lines share; torch is imported only where a command needs it."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.utils.system import require_stack
from ghost_det.utils.text import plural

if TYPE_CHECKING:
    from ghost_det.data.dataset import DetectionData

CONFIG = 'a config: a name of ghost-det configs, a file, or mmdet::FOLDER/NAME.py'
WEIGHTS = 'its weights, as work_dirs/CONFIG/epoch_24.pth'
MODEL = 'of ghost-det export; or a config and then its checkpoint, for torch'


def positive_int(text: str) -> int:
    """Read an integer from 1 up, as argparse's ``type``."""
    if not text.isdecimal() or not 0 < int(text[:20]) < 2**31:
        raise argparse.ArgumentTypeError(f'{text!r}: expected an integer from 1 up')
    return int(text)


def positive_float(text: str) -> float:
    """Read a number above 0, as argparse's ``type``."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number above 0')
    return number


def fraction(text: str) -> float:
    """Read a number from 0 to 1, as argparse's ``type``."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number from 0 to 1')
    return number


def inner_fraction(text: str) -> float:
    """Read a number between 0 and 1, as argparse's ``type``."""
    number = fraction(text)
    if number in (0, 1):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number between 0 and 1')
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


COUNT: dict[str, Any] = {'type': positive_int, 'metavar': 'N'}
SIZE: dict[str, Any] = {'type': positive_int, 'nargs': 2, 'metavar': ('HEIGHT', 'WIDTH')}
JSON: dict[str, Any] = {'type': Path, 'metavar': 'JSON'}
FOLDER: dict[str, Any] = {'type': Path, 'metavar': 'FOLDER'}


class Parser(argparse.ArgumentParser):
    """A parser, and with it those of its subcommands, that takes options between the words as well.

    `parse_intermixed_args` does so, but it refuses subcommands and forgets ``--``.
    """

    _mixing = False

    def add_subparsers(self, **settings: Any) -> Any:
        """See `argparse.ArgumentParser`."""
        self._mixing = True
        return super().add_subparsers(**settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse.ArgumentParser`."""
        args = sys.argv[1:] if args is None else list(args)
        if self._mixing:
            return super().parse_known_args(args, namespace)
        if '--' in args:  # the words after it are files, which may look like options
            end = args.index('--')
            args[end:] = [f'./{word}' if word.startswith('-') else word for word in args[end + 1 :]]
        self._mixing = True  # up to Python 3.12, the other method calls this one
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


class Settings(argparse.Action):
    """Read ``KEY=VALUE ...`` as mmengine's ``DictAction``, which is imported when there are some."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """See `argparse.Action`."""
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except ValueError:  # for one without "="
            parser.error(f'{option_string}: expected KEY=VALUE: {self.help}')


SETTINGS: dict[str, Any] = {'nargs': '+', 'action': Settings, 'metavar': 'KEY=VALUE'}


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what train and test both take: work folder, data, launcher, config options."""
    parser.add_argument('--work-dir', help='for logs, checkpoints, pictures (default: work_dirs/CONFIG)')
    backbone = "in place of the config's, as GhostNetV2:1.3; ghost-det swap makes a config of it"
    parser.add_argument('--backbone', metavar='NAME[:WIDTH]', help=backbone)
    data = parser.add_argument_group('data, instead of the one that the config names')
    add_data(data)
    started = 'what started the processes of a distributed run (default: pytorch under torchrun, else none)'
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], help=started)
    add_config_options(parser)
    # torch.distributed.launch passes it; mmengine reads the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes the config."""
    settings = 'settings that win over the config, as optim_wrapper.optimizer.lr=0.01'
    parser.add_argument('--cfg-options', **SETTINGS, help=settings)


def add_data(parser: Any) -> None:
    """Add the options that name a data set, as a whole or part by part."""
    folder = "'sample', or a folder in COCO, Roboflow, VOC or YOLO layout"
    parser.add_argument('--data', metavar='FOLDER', help=folder)
    add_parts(parser)


def add_parts(parser: Any) -> None:
    """Add the options that name annotations and images of train and val one by one."""
    for split in ('train', 'val'):
        parser.add_argument(f'--{split}-ann', **JSON, help=f'annotations of the {split} split')
        parser.add_argument(f'--{split}-images', **FOLDER, help=f'images of the {split} split')
    share = 'part of train that becomes val where there is none (default: 0.2)'
    parser.add_argument('--val-share', type=inner_fraction, metavar='SHARE', help=share)


def parse(
    parser: argparse.ArgumentParser, light: bool = False, splits: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse the command line, and unless the command is ``light``, import and register all of `ghost_det`.

    The ``splits`` of the data set are found before torch is imported: a wrong name is reported at once.
    """
    # Taken from the command line before it is parsed, see `run_tool`.
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    args = parser.parse_args()
    if not light:
        require_stack(parser.prog)
        if splits:
            args.located = locate(args, splits)
        register(parser.prog)
    if 'local_rank' in args:
        from ghost_det.engine.distributed import default_launcher, read_environment

        args.launcher = args.launcher or default_launcher()
        if args.launcher == 'pytorch':
            os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        read_environment(args.launcher)
    return args


def register(what: str) -> None:
    """Register all of `ghost_det` with MMDetection in a command that has not needed torch so far."""
    require_stack(what)
    import ghost_det.register  # noqa: F401


def locate(args: argparse.Namespace, splits: Sequence[str]) -> DetectionData | None:
    """Find the splits of the data set that the arguments name; ``None`` where they leave it to the config."""
    given = {'train': (args.train_ann, args.train_images), 'val': (args.val_ann, args.val_images)}
    if args.data is None and not any(map(any, given.values())):
        return None
    from ghost_det.config.shipped import config_file

    config_file(args.config)  # a wrong name is reported before a sample is made
    from ghost_det.data.dataset import find_splits

    return find_splits(args.data, given, splits, args.val_share)


def data_of(args: argparse.Namespace, classes: Sequence[str] | None = None) -> DetectionData | None:
    """Return the data set that `parse` located, or ``None`` where the arguments leave it to the config.

    ``classes`` are those of the detector, where one is evaluated.
    """
    if args.located is None:
        return None
    if not classes and args.located.train is None:  # the weights do not say what they detect
        args.located = locate(args, ('train', 'val'))
    from ghost_det.engine.distributed import is_rank_zero

    data: DetectionData = args.located.with_classes(classes)
    if not is_rank_zero():
        return data
    for name, split in (('train', data.train), ('val', data.val)):
        if split is not None:
            print(f'{name:<6}{split.annotations}, images in {split.images}')
    for note in data.notes:
        print(note)
    names = ', '.join(data.classes[:10]) + ' ...' * (len(data.classes) > 10)
    print(f'{plural(len(data.classes), "class")}: {names}')
    for warning in data.warnings[:5]:
        print(f'warning: {warning}')
    if data.warnings:
        print('ghost-det check-data, given the same data, says more about these warnings')
    return data

"""Options that several commands share; torch is imported only where a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.utils.system import require_stack
from ghost_det.utils.text import plural

if TYPE_CHECKING:
    from ghost_det.data.dataset import DetectionData

CONFIG = 'name of a config (see ghost-det configs), a file, or mmdet::FOLDER/NAME.py'
TRAINED_CONFIG = 'the config that the detector was trained with'
CHECKPOINT = 'its checkpoint, such as work_dirs/CONFIG/epoch_24.pth'
MODEL = 'exported detector (.xml or .onnx), or a config followed by its checkpoint'


def positive_int(text: str) -> int:
    """Parse an integer of 1 or more."""
    if not text.isdecimal() or not 0 < int(text[:20]) < 2**31:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a positive integer')
    return int(text)


def positive_float(text: str) -> float:
    """Parse a number above 0."""
    return _parse_float(text, lambda number: 0 < number < math.inf, 'a number above 0')


def fraction(text: str) -> float:
    """Parse a number from 0 to 1."""
    return _parse_float(text, lambda number: 0 <= number <= 1, 'a number from 0 to 1')


def inner_fraction(text: str) -> float:
    """Parse a number between 0 and 1, excluding both."""
    return _parse_float(text, lambda number: 0 < number < 1, 'a number between 0 and 1')


def _parse_float(text: str, is_valid: Callable[[float], bool], expected: str) -> float:
    with contextlib.suppress(ValueError):
        if is_valid(float(text)):
            return float(text)
    raise argparse.ArgumentTypeError(f'{text!r}: expected {expected}')


COUNT: dict[str, Any] = {'type': positive_int, 'metavar': 'N'}
SIZE: dict[str, Any] = {'type': positive_int, 'nargs': 2, 'metavar': ('HEIGHT', 'WIDTH')}
FOLDER: dict[str, Any] = {'type': Path, 'metavar': 'FOLDER'}


class Settings(argparse.Action):
    """Parse ``KEY=VALUE ...`` with mmengine's ``DictAction``, imported only when the option is used."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """See `argparse.Action`."""
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except ValueError:  # no "="
            parser.error(f'{option_string}: expected KEY=VALUE, got {" ".join(values)}')


SETTINGS: dict[str, Any] = {'nargs': '+', 'action': Settings, 'metavar': 'KEY=VALUE'}


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what train and test have in common."""
    parser.add_argument('--work-dir', help='folder for all output (default: in work_dirs)')
    backbone = 'replace the backbone, for example by GhostNetV2:1.3; ghost-det swap writes such a config'
    parser.add_argument('--backbone', metavar='NAME[:WIDTH]', help=backbone)
    add_data(parser.add_argument_group("data set, instead of the config's"))
    launcher = 'how a distributed run was started (default: pytorch under torchrun, otherwise none)'
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], help=launcher)
    add_config_options(parser)
    # torch.distributed.launch passes it.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that overrides settings of the config."""
    settings = 'override settings of the config, for example optim_wrapper.optimizer.lr=0.01'
    parser.add_argument('--cfg-options', dest='options', **SETTINGS, help=settings)


def add_data(parser: Any) -> None:
    """Add the options that choose a data set."""
    folder = "'sample', or a folder in COCO, Roboflow, VOC or YOLO layout"
    parser.add_argument('--data', metavar='FOLDER', help=folder)
    add_splits(parser)


def add_splits(parser: Any) -> None:
    """Add the options that choose annotations and images of train and val one by one."""
    for split in ('train', 'val'):
        annotations = f'COCO annotations of the {split} split'
        parser.add_argument(f'--{split}-ann', type=Path, metavar='JSON', help=annotations)
        parser.add_argument(f'--{split}-images', **FOLDER, help=f'images of the {split} split')
    share = 'fraction of train to validate on if there is no val split (default: 0.2)'
    parser.add_argument('--val-share', type=inner_fraction, metavar='SHARE', help=share)


def parse(
    parser: argparse.ArgumentParser, light: bool = False, splits: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse the command line; unless the command is ``light``, import torch and register all of `ghost_det`.

    ``splits`` of the data set are located before that, because a wrong name should be reported at once.
    """
    # Only for --help: `run_tool` removes it from the command line.
    parser.add_argument('--traceback', action='store_true', help='show the traceback of an error')
    args = parser.parse_args()
    del args.traceback
    if light:
        return args
    require_stack(parser.prog)
    if splits:
        args.located = _locate(args, splits)
    register(parser.prog)
    if 'launcher' in args:
        from ghost_det.engine.distributed import default_launcher, read_environment

        args.launcher = args.launcher or default_launcher()
        if args.launcher == 'pytorch':
            os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        read_environment(args.launcher)
        del args.local_rank
    return args


def add_command(commands: Any, name: str, work: Any, what: str) -> argparse.ArgumentParser:
    """Add a subcommand, which ``args.work`` is to run."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f'{what}.')
    command.set_defaults(work=work)
    return command


def is_config(model: str) -> bool:
    """Return whether a MODEL is a config rather than an exported file."""
    from ghost_det.config import shipped

    return model.endswith('.py') or '::' in model or shipped.find(model) is not None


def register(what: str) -> None:
    """Register all of `ghost_det` with MMDetection."""
    require_stack(what)
    import ghost_det.register  # noqa: F401


def _locate(args: argparse.Namespace, splits: Sequence[str]) -> DetectionData | None:
    given = {'train': (args.train_ann, args.train_images), 'val': (args.val_ann, args.val_images)}
    if args.data is None and not any(map(any, given.values())):
        return None
    from ghost_det.config.shipped import config_file
    from ghost_det.data.dataset import find_splits

    config_file(args.config)  # report a wrong name before a sample is generated
    return find_splits(args.data, given, splits, args.val_share)


def load_data(args: argparse.Namespace, classes: Sequence[str] | None = None) -> None:
    """Replace the data options by ``args.data``, the data set; ``None`` leaves it to the config.

    ``classes`` are those of a trained detector.
    """
    found = args.located
    if found is not None:
        if not classes and found.train is None:  # the checkpoint has no class names
            found = _locate(args, ('train', 'val'))
        found = found.with_classes(classes)
        _describe(found)
    for name in ('located', 'train_ann', 'train_images', 'val_ann', 'val_images', 'val_share'):
        delattr(args, name)
    args.data = found


def _describe(data: DetectionData) -> None:
    from ghost_det.engine.distributed import is_rank_zero

    if not is_rank_zero():
        return
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
        print('run ghost-det check-data on this data set for details')

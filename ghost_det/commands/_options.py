"""Options that several commands share; torch is imported only where a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost_det.config.shipped import is_config
from ghost_det.errors import UserError
from ghost_det.utils.system import require_stack
from ghost_det.utils.text import plural

if TYPE_CHECKING:
    from ghost_det.data.dataset import DetectionData

CONFIG = 'name of a config (see ghost-det configs), a file, or mmdet::FOLDER/NAME.py'
TRAINED_CONFIG = 'the config that the detector was trained with'
CHECKPOINT = 'its checkpoint, such as work_dirs/CONFIG/epoch_24.pth'
MODEL = 'exported detector (.xml, .onnx or .ncnn), or a config followed by its checkpoint'


def _number(kind: type, is_valid: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """Return a parser of numbers in a range."""

    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            number = kind(text)
            if is_valid(number):
                return number
        raise argparse.ArgumentTypeError(f'{text!r}: expected {expected}')

    return parse


positive_int = _number(int, lambda number: 0 < number < 2**31, 'a positive integer')
port = _number(int, lambda number: 0 < number < 2**16, 'a number from 1 to 65535')
positive_float = _number(float, lambda number: 0 < number < math.inf, 'a number above 0')
fraction = _number(float, lambda number: 0 <= number <= 1, 'a number from 0 to 1')
inner_fraction = _number(float, lambda number: 0 < number < 1, 'a number between 0 and 1')
side = _number(int, lambda number: 0 < number <= 2**15, 'an integer from 1 to 32768')
COUNT: dict[str, Any] = {'type': positive_int, 'metavar': 'N'}
SIZE: dict[str, Any] = {'type': side, 'nargs': 2, 'metavar': ('HEIGHT', 'WIDTH')}
FOLDER: dict[str, Any] = {'type': Path, 'metavar': 'FOLDER'}


class Settings(argparse.Action):
    """Parse ``KEY=VALUE ...`` with mmengine's ``DictAction``, imported only when the option is used."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)
        except ValueError:  # no "="
            parser.error(f'{option_string}: expected KEY=VALUE, got {" ".join(values)}')


SETTINGS: dict[str, Any] = {'nargs': '+', 'action': Settings, 'metavar': 'KEY=VALUE'}


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what train and test have in common."""
    parser.add_argument('--work-dir', help='folder for all output (default: in work_dirs)')
    backbone = 'replace the backbone, for example with GhostNetV2:1.3; ghost-det swap writes such a config'
    parser.add_argument('--backbone', metavar='NAME[:WIDTH]', help=backbone)
    add_data(parser.add_argument_group("data set, instead of the config's"))
    launcher = 'how a distributed run was started (default: pytorch under torchrun, otherwise none)'
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], help=launcher)
    add_config_options(parser)


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
    share = 'fraction of the training images to validate on, if there is no val split (default: 0.2)'
    parser.add_argument('--val-share', type=inner_fraction, metavar='SHARE', help=share)


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Add the options for objects that are small in large images."""
    tile = 'also run on tiles of N x N pixels of each image, 32 or more, for small objects'
    pixels = _number(int, lambda n: n >= 32, 'an integer of 32 or more')
    parser.add_argument('--tile', type=pixels, metavar='N', help=tile)
    overlap = 'share of a tile that the next one repeats (default: 0.2)'
    share = _number(float, lambda n: 0 <= n <= 0.9, 'a number from 0 to 0.9')
    parser.add_argument('--overlap', type=share, metavar='SHARE', help=overlap)


def read_launcher(args: argparse.Namespace) -> None:
    """Find out how this process was started, before anything is printed by each process."""
    from ghost_det.engine.distributed import default_launcher, read_environment

    args.launcher = args.launcher or default_launcher()
    read_environment(args.launcher)


def add_command(commands: Any, name: str, work: Any, what: str) -> argparse.ArgumentParser:
    """Add a subcommand, which ``args.work`` is to run."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f'{what}.')
    command.set_defaults(work=work)
    return command


def pair_models(words: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Return exported detectors and configs by name, each config with the checkpoint after it, if any."""
    found: list[tuple[str, str | None]] = []
    for word in words:
        if not word.endswith('.pth'):
            found.append((word, None))
        elif found and is_config(found[-1][0]) and found[-1][1] is None:
            found[-1] = found[-1][0], word
        else:
            raise UserError(f'{word}: a checkpoint must follow its config')
    named = {' '.join(filter(None, each)): each for each in found}
    if len(named) < len(found):
        raise UserError('the same model is given twice')
    return named


def open_detector(model: str, checkpoint: str | None, threads: int | None, score: float = 0.0) -> Any:
    """Return an exported detector, or a PyTorch one; detections that score below ``score`` are dropped."""
    if not is_config(model):
        from ghost_det.deploy.detector import Detector

        return Detector(model, threads=threads, score_threshold=score)
    register(model)
    from ghost_det.engine.inference import TorchDetector

    return TorchDetector(model, checkpoint, threads=threads, score_threshold=score)


def register(what: str) -> None:
    """Register all of `ghost_det` with MMDetection."""
    require_stack(what)
    import ghost_det.register  # noqa: F401


def known_source(text: str) -> str:
    """Return what ``--pretrained`` names: ``none``, published weights, a URL or a file."""
    from ghost_det.weights.catalog import find_published

    if text == 'none' or find_published(text) or ':/' in text or Path(text).expanduser().is_file():
        return text
    raise UserError(f'--pretrained {text}: no such file or name; see ghost-det weights list')


def require_data(args: argparse.Namespace) -> None:
    """Report a wrong config or data folder before torch is imported, which takes seconds."""
    from ghost_det.config.shipped import config_file
    from ghost_det.data.layouts import locate

    if args.config:
        config_file(args.config)
    if args.data:
        train, val = (args.train_ann, args.train_images), (args.val_ann, args.val_images)
        locate(args.data, {'train': train, 'val': val}, args.val_share)


def load_data(args: argparse.Namespace, classes: Sequence[str] | None = None) -> None:
    """Replace the data options with ``args.data``, the data set; ``None`` leaves it to the config.

    ``classes`` are those of a trained detector.
    """
    from ghost_det.data.dataset import find_data

    names = ('train_ann', 'train_images', 'val_ann', 'val_images', 'val_share')
    given = {name: vars(args).pop(name) for name in names}
    if args.data is not None or any(given.values()):
        args.data = find_data(args.data, classes=classes, **given)
        _describe(args.data)


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

"""What goes wrong while a detector is built or run: the config, an image, memory or the disk is to blame."""

from __future__ import annotations

import contextlib
import pickle
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import Compose

from ghost_det.errors import UserError, reason

from .checkpoints import FULL, disk_full

_WRONG = (TypeError, ValueError, KeyError, AttributeError, IndexError, AssertionError, RuntimeError)


class NamedCompose(Compose):
    """mmengine's ``Compose``, whose errors name the image and the transform.

    Raises:
        UserError: an image cannot be read, or a transform fails over one.
    """

    def __call__(self, data: Any) -> Any:
        """Apply the transforms one after the other."""
        path = data.get('img_path') if isinstance(data, dict) else None
        for transform in self.transforms:
            try:
                data = transform(data)
            except UserError:
                raise
            except Exception as error:
                name = type(transform).__name__
                if path is not None and name.startswith('Load') and 'Image' in name:
                    raise UserError(_unreadable(path, error)) from error
                raise UserError(
                    f'{path or "an image"}: the transform {name} of the pipeline fails: {_text(error)}. '
                    'Look at its arguments in the config, and at the boxes of the image'
                ) from error
            if data is None:
                return None
        return data


def _unreadable(path: str, error: Exception) -> str:
    fix = 'ghost-det check-data lists all such images; its --fix FOLDER writes a copy without them'
    if isinstance(error, OSError):
        return f'{path}: the image cannot be read ({error.strerror or error}). {fix}'
    why = 'more pixels than OpenCV reads' if 'CV_IO_MAX_IMAGE_PIXELS' in str(error) else ''
    return (
        f'{path}: not an image that OpenCV can decode{f" ({why})" if why else ""}: empty, cut off or of '
        f'another kind. {fix}'
    )


def name_images(dataset: Any) -> None:
    """Let the errors of a data set, and of those it wraps, name the image.

    Args:
        dataset: of mmengine; changed in place.
    """
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]:
        if inner is not None:
            name_images(inner)
    pipeline = getattr(dataset, 'pipeline', None)
    if pipeline is not None and type(pipeline) is Compose:
        dataset.pipeline = NamedCompose(pipeline.transforms)


@contextlib.contextmanager
def told(config: str, runner: Any = None) -> Iterator[None]:
    """Turn what mmengine raises over a user's error into a `UserError`; bugs of the code stay as they are.

    Until the first step of ``runner`` is done, errors of the network are the config's.

    Raises:
        UserError: a part cannot be built, an image read, weights loaded, memory or disk had, or the parts of
            the network do not go together.
    """
    folder = getattr(runner, 'work_dir', '.')
    try:
        yield
    except UserError as error:
        raise UserError(_of_worker(str(error))) from error
    except pickle.UnpicklingError as error:
        raise UserError(f'{config}: weights that it names are refused: {_text(error)}') from error
    except OSError as error:
        if error.errno in FULL:
            raise UserError(disk_full(Path(error.filename or folder))) from error
        if _passes(error, 'build_from_cfg') or error.filename:
            raise UserError(f'{config}: {error.filename or ""}: {error.strerror or _text(error)}') from error
        raise
    except Exception as error:
        full = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        if full or "can't allocate memory" in str(error):
            raise UserError(
                f'{config}: the memory is not enough: {_text(error)}. Smaller: --batch-size, the '
                'scale of the images, --amp'
            ) from error
        if not isinstance(error, _WRONG):
            raise
        if _passes(error, 'build_from_cfg', 'from_cfg', 'build_optim_wrapper', 'build_param_scheduler'):
            is_optimizer = runner is not None and _passes(error, 'build_optim_wrapper')
            part = f' (its optimizer, {runner.cfg.optim_wrapper.get("optimizer")})' if is_optimizer else ''
            raise UserError(f'{config}: cannot be built{part}: {_text(error)}') from error
        if (
            _passes(error, 'train_step', 'val_step', 'test_step')
            and getattr(getattr(runner, '_train_loop', None), 'iter', 0) == 0
        ):
            raise UserError(
                f'{config}: the network cannot do its first step: {_text(error)}. Its parts may not go '
                'together, as in_channels, out_indices or num_classes (--traceback shows where)'
            ) from error
        raise


def _passes(error: BaseException, *names: str) -> bool:
    """Tell whether an error came through a function of one of the names."""
    return any(frame.f_code.co_name in names for frame, _ in traceback.walk_tb(error.__traceback__))


def _text(error: BaseException) -> str:
    text = ' '.join(_of_worker(str(error)).split())
    if not text and error.__traceback__ is not None:
        text = traceback.extract_tb(error.__traceback__)[-1].line or ''
    return reason(error, text)


def _of_worker(text: str) -> str:
    """Return the message of an error of a loader's worker, which comes with its traceback as text."""
    if not re.match(r'Caught \S+ in ', text):
        return text
    return re.split(r'\n[\w.]*(?:Error|Exception)\S*: ', text)[-1].strip()

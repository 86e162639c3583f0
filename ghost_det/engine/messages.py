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

BUILDING = 'cannot be built'
FIRST_STEP = 'the network cannot do its first step'
_OVER_A_CONFIG = (TypeError, ValueError, KeyError, AttributeError, IndexError, AssertionError, RuntimeError)


class NamedCompose(Compose):
    """mmengine's ``Compose``, whose errors name the image and the transform."""

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
    """Let the errors of a data set, and of those it wraps, name the image."""
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]:
        if inner is not None:
            name_images(inner)
    pipeline = getattr(dataset, 'pipeline', None)
    if pipeline is not None and type(pipeline) is Compose:
        dataset.pipeline = NamedCompose(pipeline.transforms)


@contextlib.contextmanager
def explain_errors(config: str, doing: str = '', folder: str | Path = '.') -> Iterator[None]:
    """Turn what mmengine raises over a user error into a `UserError`; bugs stay as they are.

    Args:
        config: as the user named it.
        doing: `BUILDING` or `FIRST_STEP`, in which any error is over the config.
        folder: that is written to, where an error does not name its file.

    Raises:
        UserError: a part cannot be built, an image read, weights loaded; memory or disk are full; or the
            parts of the network do not go together.
    """
    try:
        yield
    except UserError as error:
        raise UserError(_of_worker(str(error))) from error
    except pickle.UnpicklingError as error:
        raise UserError(f'{config}: weights that it names are refused: {_text(error)}') from error
    except OSError as error:
        if error.errno in FULL:
            raise UserError(disk_full(Path(error.filename or folder))) from error
        if doing == BUILDING or error.filename:
            raise UserError(f'{config}: {error.filename or ""}: {error.strerror or _text(error)}') from error
        raise
    except Exception as error:
        full = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        if full or "can't allocate memory" in str(error):
            raise UserError(
                f'{config}: the memory is not enough: {_text(error)}. Smaller: --batch-size, the '
                'scale of the images, --amp'
            ) from error
        if not doing or not isinstance(error, _OVER_A_CONFIG):
            raise
        advice = ''
        if doing == FIRST_STEP:
            advice = (
                '. Its parts may not go together, as in_channels, out_indices or num_classes '
                '(--traceback shows where)'
            )
        raise UserError(f'{config}: {doing}: {_text(error)}{advice}') from error


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

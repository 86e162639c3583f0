"""User errors that appear while a detector is built or run: in the config, an image, memory or the disk."""

from __future__ import annotations

import contextlib
import errno
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import Compose

from ghost_det.errors import Interrupted, UserError, reason

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BUILDING = 'cannot be built'
FIRST_STEP = 'the first step failed'
_ADVICE = {FIRST_STEP: '. Check that in_channels, out_indices and num_classes match; --traceback shows where'}


class NamedCompose(Compose):
    """mmengine's ``Compose``, whose errors name the image and the transform."""

    def __call__(self, data: Any) -> Any:
        path = data.get('img_path') or 'an image'
        for transform in self.transforms:
            try:
                data = transform(data)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f'{path}: {type(transform).__name__} of the pipeline fails: {_text(error)}. '
                    'ghost-det check-data lists wrong images and boxes, and its --fix leaves them out'
                ) from error
            if data is None:
                return None
        return data


def name_images(dataset: Any) -> None:
    """Let the errors of a data set, and of those it wraps, name the image."""
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]:
        if inner is not None:
            name_images(inner)
    pipeline = getattr(dataset, 'pipeline', None)
    if pipeline is not None and type(pipeline) is Compose:
        dataset.pipeline = NamedCompose(pipeline.transforms)


@contextlib.contextmanager
def explain_errors(
    config: str, doing: str | Callable[[], str] = '', folder: str | Path = '.'
) -> Iterator[None]:
    """Turn errors that the user can fix into a `UserError`; bugs are raised as they are.

    While ``doing`` is `BUILDING` or `FIRST_STEP`, the config is wrong. ``folder`` is where the run writes.
    """
    try:
        yield
    except UserError as error:
        raise UserError(_of_worker(str(error))) from error
    except Interrupted:
        raise
    except Exception as error:
        text = _text(error)
        file = error.filename if isinstance(error, OSError) else None
        phase = doing if isinstance(doing, str) else doing()
        if isinstance(error, OSError) and error.errno in FULL:
            message = (
                f'no space left on the disk for {file or folder}. The checkpoints before it are intact: free '
                'some, then continue with --resume; default_hooks.checkpoint.max_keep_ckpts limits them'
            )
        elif isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or 'allocate memory' in text:
            message = f'{config}: out of memory: {text}. Use a smaller --batch-size, smaller images, or --amp'
        elif phase or file:
            message = f'{config}: {phase or "stopped"}: {text}{_ADVICE.get(phase, "")}'
        else:
            raise
        raise UserError(message) from error


def _text(error: Exception) -> str:
    text = _of_worker(str(error))
    if not text and error.__traceback__ is not None:  # as mmdet's assertions
        text = traceback.extract_tb(error.__traceback__)[-1].line or ''
    return reason(error, text)


def _of_worker(text: str) -> str:
    """Return the message of an error of a loader worker, which arrives with its traceback as text."""
    if not re.match(r'Caught \S+ in ', text):
        return text
    return re.split(r'\n[\w.]*(?:Error|Exception)\S*: ', text)[-1].strip()

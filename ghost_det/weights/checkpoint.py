"""Checkpoints, read without unpickling anything but weights and plain data."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghost_det.errors import UserError
from ghost_det.utils.text import plural

# What checkpoints hold besides tensors: timm's its options, mmengine's the histories of logged scalars, with
# arrays. torch calls what a pickle names, with arguments of the pickle: numpy's own constructors would make
# arrays of pointers from bytes, and its dtypes take flags that do the same. Hence stand-ins for them.


class _History:
    """What mmengine's `HistoryBuffer` is read as where mmengine was not imported; it only holds its data."""

    min = max = current = mean = None


def _history() -> Any:
    return getattr(sys.modules.get('mmengine.logging'), 'HistoryBuffer', _History)


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, which a pickled `HistoryBuffer` calls to find its statistics."""
    if owner is not _history() or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner!r}, {name!r})')
    return getattr(owner, name)


class _Dtype:
    """Stand in for ``numpy.dtype``: only numbers, as objects would be pointers."""

    def __init__(self, name: str, *flags: Any) -> None:
        self.numpy = np.dtype(str(name))
        if self.numpy.kind not in 'biuf':
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL numpy.dtype({name!r})')

    def __setstate__(self, state: Any) -> None:
        if state[1] in ('<', '>'):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """Stand in for ``numpy.ndarray``; only `_empty` makes one, whose content follows by ``__setstate__``."""

    def __new__(cls, *arguments: Any) -> _Array:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL numpy.ndarray(...)')

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError('Unsupported global: GLOBAL numpy.ndarray.__setstate__')
        super().__setstate__((version, shape, dtype.numpy, is_fortran, data))

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()  # in the next checkpoint, an array like any other


def _empty(*arguments: Any) -> _Array:
    """Stand in for numpy's ``_reconstruct``."""
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """Stand in for numpy's ``scalar``."""
    return np.frombuffer(data, dtype.numpy, count=1)[0]


def _plain_data() -> list[Any]:
    return [
        argparse.Namespace,
        (_history(), 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_statistic, 'builtins.getattr'),
        (_Array, 'numpy.ndarray'),
        (_Dtype, 'numpy.dtype'),
        *((_empty, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        *((_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    ]


_SLACK = 64 * 2**20  # bytes by which small archives may grow, which some pack


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint of mmengine with ``weights_only=True``; code in the file is never run."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f'{path}: expected a checkpoint file, found {"a folder" if path.is_dir() else "nothing"}'
        )
    with _user_errors(path):
        _check_archive(path)
    content = read_weights(path, torch.load, path, map_location=map_location)
    if not isinstance(content, dict):
        raise UserError(f'{path}: expected a dictionary of weights, found {type(content).__name__}')
    weights = content.get('state_dict', content)
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f'{path}: expected a dictionary of named weights, and it holds none')
    return content


def _check_archive(path: Path) -> None:
    """Raise a `UserError` for archives that do not match their checksums, or would fill the memory.

    torch does not look at checksums, and its own archives are not compressed at all.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size, unpacked = path.stat().st_size, sum(part.file_size for part in archive.infolist())
        if unpacked > 4 * size + _SLACK:
            raise UserError(
                f'{path}: refused: an archive of {size / 1e6:.1f} MB that would take '
                f'{unpacked / 1e6:.0f} MB of memory; checkpoints are not packed like this'
            )
        if archive.testzip() is not None:
            raise UserError(f'{path}: damaged: its content does not match its own checksums')


@contextlib.contextmanager
def _user_errors(name: str | Path) -> Iterator[None]:
    """Raise a `UserError` in place of what zipfile and torch raise over bytes that are no checkpoint."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f'{name}: cannot be read ({error.strerror or error})') from None
    except Exception as error:  # nearly any
        unsafe = re.search(r'(?i)unsupported (?:global: )?GLOBAL (\S+)', str(error))
        if unsafe is None:
            raise UserError(f'{name}: not a checkpoint that torch can read, or a damaged one') from None
        raise UserError(
            f'{name}: refused: it holds {unsafe[1]}, which is not weights, and reading it could run code. '
            f"If you trust the file, save only its weights: torch.save({{'state_dict': ...}}, PATH)"
        ) from None


def read_weights(name: str | Path, read: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Let a function of torch, ``read``, read only weights and plain data, or raise a `UserError`."""
    with _user_errors(name), torch.serialization.safe_globals(_plain_data()):
        content = read(*arguments, **settings, weights_only=True)
    if isinstance(content, dict) and isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)  # the text of a config, which mmengine would run on resuming
    return content


def checkpoint_classes(checkpoint: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that a detector was trained with, or ``None`` where it does not say."""
    found: Any = checkpoint
    for key in ('meta', 'dataset_meta', 'classes'):
        found = found.get(key) if isinstance(found, dict) else None
    return tuple(map(str, found)) if isinstance(found, list | tuple) and found else None


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Any]) -> list[str]:
    """Return which tensors of a network are missing in ``found`` or have another shape there."""
    missing = [f'{key} is missing' for key in expected if key not in found]
    return missing + [
        f'{key}: expected {tuple(value.shape)}, got {tuple(getattr(found[key], "shape", ()))}'
        for key, value in expected.items()
        if key in found and getattr(found[key], 'shape', None) != value.shape
    ]


def check_fits(model: torch.nn.Module, checkpoint: dict[str, Any], path: str | Path, config: str) -> None:
    """Raise a `UserError` where a checkpoint does not fit; mmengine would silently load what does."""
    # A model wrapped for several processes has the prefix too.
    weights, expected = (
        {key.removeprefix('module.'): value for key, value in tensors.items()}
        for tensors in (checkpoint.get('state_dict', checkpoint), model.state_dict())
    )
    problems = differences(expected, weights)
    if problems:
        classes = checkpoint_classes(checkpoint)
        names = ', '.join(classes[:6]) if classes else ''
        hint = f' It was trained on {plural(len(classes), "class")} ({names}...).' if classes else ''
        raise UserError(
            f'{path}: does not fit {config}: {len(problems)} of {len(expected)} tensors differ: '
            f'{"; ".join(problems[:3])}.{hint} Use the config (and --data) that it was trained with.'
        )

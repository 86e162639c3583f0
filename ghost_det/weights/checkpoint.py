"""Checkpoints, read without unpickling anything but weights and plain data."""

from __future__ import annotations

import argparse
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghost_det.errors import UserError
from ghost_det.utils.text import plural

# Besides tensors, timm saves its options and mmengine its histories of scalars, with NumPy arrays in them.
# torch calls what a pickle names with the pickle's arguments. NumPy's own constructors and the flags of its
# dtypes can turn bytes into pointers to objects: hence these stand-ins, which only build arrays of numbers.


def _history_buffer() -> Any:
    """Return mmengine's class, or one that only holds its data if mmengine was not imported."""
    return getattr(sys.modules.get('mmengine.logging'), 'HistoryBuffer', argparse.Namespace)


def _refuse(name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'Unsupported global: GLOBAL {name}')


def _getattr(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which a pickled `HistoryBuffer` refers to its statistics."""
    if owner is not _history_buffer() or name not in ('min', 'max', 'current', 'mean'):
        raise _refuse(f'getattr({owner!r}, {name!r})')
    return getattr(owner, name, None)


class _Dtype:
    """Stand in for ``numpy.dtype``; only numbers."""

    def __init__(self, name: str, *flags: Any) -> None:
        self.numpy = np.dtype(str(name))
        if self.numpy.kind not in 'biuf':
            raise _refuse(f'numpy.dtype({name!r})')

    def __setstate__(self, state: Any) -> None:
        if state[1] in ('<', '>'):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """Stand in for ``numpy.ndarray``: made empty by `_reconstruct`, then filled by ``__setstate__``."""

    def __new__(cls, *arguments: Any) -> _Array:
        raise _refuse('numpy.ndarray(...)')

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _refuse('numpy.ndarray.__setstate__')
        super().__setstate__((version, shape, dtype.numpy, is_fortran, data))

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()  # saved again, it is an ordinary array


def _reconstruct(*arguments: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy, count=1)[0]


def _plain_data() -> list[Any]:
    return [
        argparse.Namespace,
        (_history_buffer(), 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_getattr, 'builtins.getattr'),
        (_Array, 'numpy.ndarray'),
        (_Dtype, 'numpy.dtype'),
        *((_reconstruct, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        *((_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    ]


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint of mmengine with ``weights_only=True``; code in the file is never run."""
    path = Path(path).expanduser()
    if not path.is_file() or not path.stat().st_size:
        found = 'a folder' if path.is_dir() else 'an empty file' if path.is_file() else 'nothing'
        raise UserError(f'{path}: expected a checkpoint file, found {found}')
    content: dict[str, Any] = read_weights(path, _load_intact, path, map_location=map_location)
    weights = content.get('state_dict', content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f'{path}: expected a dictionary of named weights, found {type(weights).__name__}')
    return content


def _load_intact(path: Path, **settings: Any) -> Any:
    """Call ``torch.load``, which ignores an archive's checksums, after comparing them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise UserError(f'{path}: damaged: its content does not match its checksums')
    return torch.load(path, **settings)


def read_weights(name: str | Path, read: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Let ``read``, a function of torch, read only weights and plain data, or raise a `UserError`."""
    try:
        with torch.serialization.safe_globals(_plain_data()), warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected pickle protocol')  # an error follows if it matters
            content = read(*arguments, **settings, weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f'{name}: cannot be read ({error.strerror or error})') from None
    except Exception as error:  # zipfile and torch raise nearly any over bytes that are not a checkpoint
        unsafe = re.search(r'(?i)unsupported (?:global: )?GLOBAL (\S+)', str(error))
        if unsafe is None:
            pickled = 'a pickle that torch.save did not write: not read, as that could run code'
            other = pickled if 'Unsupported operand' in str(error) else 'not a checkpoint that torch can read'
            raise UserError(f'{name}: damaged, or {other}') from None
        raise UserError(
            f'{name}: refused: it holds {unsafe[1]}, which is not weights, and reading it could run code. '
            f"If you trust the file, save only its weights: torch.save({{'state_dict': ...}}, PATH)"
        ) from None
    if isinstance(content, dict) and isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)  # a config's text, which mmengine would run when it resumes
    return content


def checkpoint_classes(checkpoint: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that a detector was trained with, or ``None`` if the checkpoint has none."""
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
    """Raise a `UserError` if a checkpoint does not fit; mmengine would silently load what does."""
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

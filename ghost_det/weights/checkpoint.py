"""Checkpoints of training runs, read without unpickling anything but weights and plain data."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ghost_det.errors import UserError
from ghost_det.utils.text import plural


def _statistic(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, which a pickled `HistoryBuffer` calls to find its statistics."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner!r}, {name!r})')
    return getattr(owner, name)


class _Dtype:
    """Stand in for ``numpy.dtype`` while unpickling: numbers alone, as objects would be pointers."""

    def __init__(self, name: str, *flags: Any) -> None:
        self.numpy = np.dtype(str(name))
        if self.numpy.kind not in 'biuf':
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL numpy.dtype({name!r})')

    def __setstate__(self, state: Any) -> None:
        if state[1] in ('<', '>'):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """Stand in for ``numpy.ndarray``, whose own constructor would take any memory for numbers or objects."""

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
    """Stand in for numpy's ``_reconstruct``; the array's content follows by ``__setstate__``."""
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """Stand in for numpy's ``scalar``."""
    return np.frombuffer(data, dtype.numpy, count=1)[0]


# What checkpoints hold beside tensors: mmengine's the histories of logged scalars, timm's its options. The
# unpickler calls what is named here, with what the file says: hence stand-ins for whatever takes memory.
_PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    HistoryBuffer,
    (_Array, 'numpy.ndarray'),
    (_Dtype, 'numpy.dtype'),
    *((_empty, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    (_statistic, 'builtins.getattr'),
]

_SLACK = 64 * 2**20  # bytes by which small archives may grow, which some pack


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint of mmengine with ``weights_only=True``; code in the file is never run.

    Raises:
        UserError: the file is missing, is no checkpoint, or holds objects other than weights.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        found = 'a folder' if path.is_dir() else 'nothing'
        raise UserError(f'{path}: a checkpoint file is wanted, found {found}')
    _check_archive(path)
    content = read_weights(path, torch.load, path, map_location=map_location)
    if not isinstance(content, dict):
        raise UserError(f'{path}: a dictionary of weights is wanted, found {type(content).__name__}')
    weights = content.get('state_dict', content)
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f'{path}: a dictionary of named weights is wanted, and it holds none')
    return content


def _check_archive(path: Path) -> None:
    """Stop at a file that is damaged, or is small and would fill the memory.

    Raises:
        UserError: its parts are much larger than itself, where torch's own are not compressed at all; or
            they do not match their checksums, which torch does not look at.
    """
    try:
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            _refuse_buffers(path.read_bytes(), path)
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
            bomb = unpacked > 4 * size + _SLACK
            damaged = not bomb and archive.testzip() is not None
            for part in archive.namelist() if not bomb and not damaged else ():
                if part.endswith('.pkl'):
                    _refuse_buffers(archive.read(part), path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from None
    except Exception:  # of zipfile, over nearly any bytes
        raise UserError(f'{path}: not a checkpoint that torch can read, or a damaged one') from None
    if bomb:
        raise UserError(
            f'{path}: refused: an archive of {size / 1e6:.1f} MB that would take {unpacked / 1e6:.0f} MB of '
            'memory; checkpoints are not packed like this'
        )
    if damaged:
        raise UserError(f'{path}: damaged: its content does not match its own checksums')


def _refuse_buffers(pickled: bytes, path: Path) -> None:
    """Stop at a pickle that asks for a buffer, which torch makes of any size, and no checkpoint holds."""
    if re.search(rb'c(?:builtins|__builtin__)\nbytearray\n', pickled):
        raise UserError(f'{path}: refused: it holds bytearray, which is not weights and takes any memory')


def read_weights(name: str | Path, read: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Let a function of torch read only weights and plain data of a checkpoint.

    Raises:
        UserError: it is no checkpoint, or holds other objects.
    """
    try:
        with torch.serialization.safe_globals(_PLAIN_DATA):
            content = read(*arguments, **settings, weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r'(?i)unsupported (?:global: )?GLOBAL (\S+)', str(error))
        if unsafe is None:
            raise UserError(f'{name}: not a checkpoint that torch can read, or a damaged one') from None
        raise UserError(
            f'{name}: refused: it holds {unsafe[1]}, which is not weights, and reading it could run code. '
            f"If you trust the file, save its weights alone: torch.save({{'state_dict': ...}}, PATH)"
        ) from None
    except OSError as error:
        raise UserError(f'{name}: cannot be read ({error.strerror or error})') from None
    except Exception:  # torch raises nearly anything over bytes that are no checkpoint
        raise UserError(f'{name}: not a checkpoint that torch can read, or a damaged one') from None
    if isinstance(content, dict) and isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)  # the text of a config, which mmengine would run on resuming
    return content


def checkpoint_classes(checkpoint: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that a detector was trained with, or ``None`` where it does not say."""
    found: Any = checkpoint
    for key in ('meta', 'dataset_meta', 'classes'):
        found = found.get(key) if isinstance(found, dict) else None
    return tuple(map(str, found)) if isinstance(found, list | tuple) and found else None


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Any]) -> list[str]:
    """Say which tensors of a network are missing in ``found`` or have another shape, each in a few words."""
    faults = [f'{key} is missing' for key in wanted if key not in found]
    faults += [
        f'{key} is {tuple(getattr(found[key], "shape", ()))}, {tuple(value.shape)} is wanted'
        for key, value in wanted.items()
        if key in found and getattr(found[key], 'shape', None) != value.shape
    ]
    return faults


def check_fits(model: torch.nn.Module, checkpoint: dict[str, Any], path: str | Path, config: str) -> None:
    """Compare a checkpoint with the model it is for, which mmengine would fill in silence as far as it goes.

    Raises:
        UserError: tensors are missing or have another shape; the message names the first ones.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    # A model wrapped for several processes has the prefix too.
    weights, wanted = (
        {key.removeprefix('module.'): value for key, value in tensors.items()}
        for tensors in (weights, model.state_dict())
    )
    faults = differences(wanted, weights)
    if faults:
        classes = checkpoint_classes(checkpoint)
        names = ', '.join(classes[:6]) if classes else ''
        hint = f' It was trained on {plural(len(classes), "class")} ({names}...).' if classes else ''
        raise UserError(
            f'{path}: does not fit {config}: {len(faults)} of {len(wanted)} tensors differ: '
            f'{"; ".join(faults[:3])}.{hint} Use the config (and --data) that it was trained with.'
        )

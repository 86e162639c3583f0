"""Checkpoints, read without unpickling anything but weights and plain data."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost_det.errors import UserError
from ghost_det.utils.text import plural

from .pickles import SAFE_TORCH, plain_data, read_torch_file


def load_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint of mmengine; code in the file is never run."""
    name, path = path, Path(path).expanduser()
    if not path.is_file() or not path.stat().st_size:
        found = 'a folder' if path.is_dir() else 'an empty file' if path.is_file() else 'nothing'
        raise UserError(f'{name}: expected a checkpoint file, found {found}')
    content: dict[str, Any] = read_weights(path, path, map_location)
    weights = content.get('state_dict', content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise UserError(f'{path}: expected a dictionary of named weights, found {type(weights).__name__}')
    return content


def read_weights(name: str | Path, file: Any, map_location: Any = 'cpu') -> Any:
    """Read only weights and plain data from a path or binary file of torch, or raise a `UserError`.

    ``name`` is for errors. Before torch 2.6 (see `pickles`), all is read onto the CPU.
    """
    try:
        with open(file, 'rb') if isinstance(file, str | Path) else nullcontext(file) as stream:
            content = _load(name, stream, map_location)
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


def _load(name: str | Path, stream: Any, map_location: Any) -> Any:
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:  # torch ignores the checksums
            if archive.testzip() is not None:
                raise UserError(f'{name}: damaged: its content does not match its checksums')
    stream.seek(0)
    if not SAFE_TORCH:
        return read_torch_file(stream)
    known: Any = [(kind, name) for name, kind in plain_data().items()]
    with torch.serialization.safe_globals(known), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Detected pickle protocol')  # an error follows if it matters
        return torch.load(stream, map_location=map_location, weights_only=True)


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

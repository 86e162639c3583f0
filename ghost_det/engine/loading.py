"""Reading checkpoints through mmengine without running the code in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_reader

from ghost_det.weights.checkpoint import load_checkpoint, read_weights
from ghost_det.weights.download import fetch_url


@contextlib.contextmanager
def safe_loading(known: dict[str, dict[str, Any]] | None = None) -> Iterator[None]:
    """Let mmengine read only weights and plain data in this block, from wherever it reads.

    onedl-mmengine itself unpickles, and so runs, what ``weights_only=True`` has just refused, mmengine
    does so before torch 2.6, and both download with a function of torch's that does so by default.
    ``known`` has the content of files that have been read already; each is used once.
    """
    given = {} if known is None else known

    def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:  # mmengine logs the name
        return given.pop(filename, None) or load_checkpoint(filename, map_location)

    ours = SimpleNamespace(**{**vars(torch), 'load': _read_safely})  # as its other loaders call torch.load
    readers: dict[str, Any] = dict(torch=ours, load_url=_read_url)
    schemes = {**CheckpointLoader._schemes, '': load_from_local}
    with (
        mock.patch.multiple(mmengine_reader, **readers),
        mock.patch.object(CheckpointLoader, '_schemes', schemes),
    ):
        yield


def _read_url(url: str, **_: Any) -> Any:
    """Stand in for ``torch.hub``'s function; what mmengine has cached needs no network."""
    cached = Path(torch.hub.get_dir(), 'checkpoints', Path(urlsplit(url).path).name)
    return read_weights(url, cached if cached.is_file() else fetch_url(url))


def _read_safely(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Stand in for ``torch.load``."""
    name = file if isinstance(file, str | Path) else 'a checkpoint'
    return read_weights(name, file, map_location)

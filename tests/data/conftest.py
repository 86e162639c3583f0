from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ghost_det.data.coco import download
from ghost_det.data.image_facts import open_image

from .coco_server import BYTES, CHUNK, Server, serving


@pytest.fixture
def images_opened_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have checks open images in this process: starting others takes most of their time."""

    def open_images(paths: Sequence[Path], jobs: int, progress: bool) -> list[Any]:
        return [json.loads(json.dumps(open_image(str(path)))) for path in paths]

    monkeypatch.setattr('ghost_det.data.checks.check.open_images', open_images)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks and short waits; no proxy."""
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    for name, value in dict(CHUNK=CHUNK, BLOCK=32 << 10, STALL=0.4, PAUSE=0.01).items():
        monkeypatch.setattr(download, name, value)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.files['/a.zip'] = BYTES
        yield server


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of conversions."""
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('GHOST_DET_CACHE', str(folder))
    return folder

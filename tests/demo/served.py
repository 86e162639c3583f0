"""The page, served by ghost-det demo as users start it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ghost_det.deploy import Metadata
from tests.conftest import ROOT
from tests.export.exported import METADATA, save

ABSENT = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet')


class Served(NamedTuple):
    """A page, what it said at its start, its process, and the folder that has its temporary ones."""

    url: str
    said: str
    process: subprocess.Popen[str]
    folder: Path


def start(folder: Path, *words: object, absent: tuple[str, ...] = ABSENT) -> subprocess.Popen[str]:
    """Run the tool where packages, torch and those of mm, cannot be imported."""
    for part in ('block', 'temporary'):
        (folder / part).mkdir(exist_ok=True)
    code = f'import sys\nsys.modules.update(dict.fromkeys({absent}))\n'
    (folder / 'block/sitecustomize.py').write_text(code)
    path = os.pathsep.join([str(folder / 'block'), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, '-m', 'ghost_det_main', 'demo', *map(str, words)],
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'TMPDIR': str(folder / 'temporary')},
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(
    folder: Path, *words: object, host: str = '127.0.0.1', absent: tuple[str, ...] = ABSENT
) -> Iterator[Served]:
    """Serve a page of two models, which find what is bright, and more."""
    pytest.importorskip('gradio')
    for name in ('a.onnx', 'b.xml'):
        save(folder / name, Metadata(**METADATA))
    port = free_port()
    process = start(folder, 'a.onnx', 'b.xml', *words, '--host', host, '--port', port, absent=absent)
    address = f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
    try:
        assert process.stdout is not None and process.stderr is not None
        said = next((line for line in process.stdout if line.startswith('http://')), '')  # torch says more
        assert said.startswith(f'http://{address}'), process.stderr.read()
        wait_for(host, port)
        yield Served(f'http://{address}', said, process, folder)
    finally:
        process.kill()
        process.wait()


def wait_for(host: str, port: int) -> None:
    """Wait for the server to answer: its socket is open before it does."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as connection:
            connection.settimeout(5)
            connection.sendall(b'GET /config HTTP/1.0\r\n\r\n')
            if connection.recv(4):
                return
        time.sleep(0.1)
    raise TimeoutError

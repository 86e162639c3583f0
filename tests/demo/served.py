"""The page, served by ghost-det demo as users start it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ghost_det.deploy import Metadata
from tests.conftest import ROOT
from tests.export.exported import METADATA, save

ABSENT = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet')


class Served(NamedTuple):
    """A page, its process, and the folder that has its temporary ones."""

    url: str
    process: subprocess.Popen[str]
    temporary: Path


def start(folder: Path, *words: object, absent: tuple[str, ...] = ABSENT) -> subprocess.Popen[str]:
    """Run the command where packages, torch and those of mm, cannot be imported."""
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
    url = f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'
    try:
        assert process.stdout is not None and process.stderr is not None
        printed = next(
            (line for line in process.stdout if line.startswith('http://')), ''
        )  # torch prints more
        assert printed.startswith(url), process.stderr.read()
        yield Served(url, process, folder / 'temporary')
    finally:
        process.kill()
        process.wait()


def require_stop(served: Served, number: signal.Signals, code: int) -> None:
    """Stop a page by a signal, and require its exit code, and that it leaves nothing."""
    served.process.send_signal(number)
    _, errors = served.process.communicate(timeout=20)
    assert served.process.returncode == code
    assert 'Traceback' not in errors and list(served.temporary.iterdir()) == []

"""The page, served by ghost-det demo as users start it."""

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


class Served(NamedTuple):
    """A page, its process, and the folder that has its temporary ones."""

    url: str
    process: subprocess.Popen[str]
    temporary: Path


def heed_interrupts() -> None:
    """Undo that a shell's background jobs, as these tests may be, ignore SIGINT and pass that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def serving(folder: Path, *words: object, host: str = '127.0.0.1', **env: str) -> Iterator[Served]:
    """Serve a page of two models, which find what is bright, and more."""
    pytest.importorskip('gradio')
    for name in ('a.onnx', 'b.xml'):
        save(folder / name, Metadata(**METADATA))
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    (folder / 'temporary').mkdir()
    own = {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'TMPDIR': str(folder / 'temporary')}
    options = ['a.onnx', 'b.xml', *map(str, words), '--host', host, '--port', str(port)]
    process = subprocess.Popen(
        [sys.executable, '-m', 'ghost_det_main', 'demo', *options],
        env={**os.environ, **own, **env},
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    url = f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'
    try:
        assert process.stdout is not None and process.stderr is not None
        lines = (line for line in process.stdout if line.startswith('http://'))  # torch prints more
        assert next(lines, '').startswith(url), process.stderr.read()
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

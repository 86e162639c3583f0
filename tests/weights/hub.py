"""The hub, and the authors' host, on loopback: what they serve, and the ways in which they fail."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import hf_hub_download

from ghost_det.weights.catalog import Variant

Failure = str | int | None


def _plain(path: str) -> str:
    return unquote(urlsplit(path).path) or '/'


class Hub:
    """A server of files, by path.

    Attributes:
        files: content, and the failures of the coming downloads, one each; the last one stays: ``'cut'``
            half-way, ``'close'`` the same without a length, ``'hold'`` half-way until ``go`` is
            set, ``'flip'`` the last byte, a status, or a path to redirect to.
        asked: the downloads, as ``'/path'`` or ``'/path from BYTE'``.
        go: lets held downloads continue.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, list[Failure]]] = {}
        self.asked: list[str] = []
        self.go = Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                hub._answer(self)

            do_GET = do_HEAD

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'

    def serve(self, path: str, content: bytes, *failures: Failure) -> str:
        self.files[_plain(path)] = content, list(failures or [None])
        return self.url + path

    def publish(self, weights: Variant, content: bytes, *failures: Failure) -> str:
        """Serve a file where the hub has these weights."""
        return self.serve(f'/{weights.hub}/resolve/{weights.revision}/model.safetensors', content, *failures)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path, download = _plain(request.path), request.command == 'GET'
        resumed = re.fullmatch(r'bytes=(\d+)-', request.headers.get('Range', ''))
        start = int(resumed[1]) if resumed else 0
        content, failures = self.files.get(path, (b'', [404]))
        failure = failures[0] if download or path not in self.files else None
        if download:
            self.asked.append(path + (f' from {start}' if resumed else ''))
            del failures[: len(failures) > 1]
        status, body = (206 if resumed else 200), content[start:]
        headers = {
            'X-Repo-Commit': 'c' * 40 if '/main/' in path else path.split('/')[-2],
            'ETag': f'"{hashlib.sha256(content).hexdigest()}"',
        }
        if resumed:
            headers['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
        if isinstance(failure, int):
            status, body = failure, b''
        elif failure and failure.startswith('/'):
            status, body, headers['Location'] = 302, b'', self.url + failure
        elif failure == 'flip':
            body = body[:-1] + bytes([body[-1] ^ 1])
        headers |= {'Connection': 'close'} if failure == 'close' else {'Content-Length': str(len(body))}
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if download:
            half = len(body) // 2
            request.wfile.write(body[:half])
            request.close_connection = failure in ('cut', 'close')
            if failure == 'hold':
                self.go.wait(10)
            if not request.close_connection:
                with suppress(ConnectionError):  # of a client that was killed
                    request.wfile.write(body[half:])


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Start a hub that this process asks through the true client, with all caches in a folder."""
    hub = Hub()
    Thread(target=hub.server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
    monkeypatch.setenv('TORCH_HOME', str(cache / 'torch'))
    ask(monkeypatch, hub.url, cache)
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # before the client's new tries
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def ask(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    client = partial(hf_hub_download, endpoint=endpoint, cache_dir=cache / 'hf')
    monkeypatch.setattr('ghost_det.weights.download.hf_hub_download', client)

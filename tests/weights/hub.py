"""The hub, and the authors' host, on loopback."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest
from huggingface_hub import hf_hub_download

from ghost_det.weights.catalog import Variant


class Hub:
    """A server of files, by path.

    Attributes:
        files: content and status.
        cuts: how many of the coming downloads end half-way.
        asked: the downloads, as ``'/path'`` or ``'/path from BYTE'``.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}
        self.cuts = 0
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub._answer(self)

            do_GET = do_HEAD

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'

    def serve(self, path: str, content: bytes, status: int = 200) -> str:
        self.files[unquote(path) or '/'] = content, status
        return self.url + path

    def publish(self, weights: Variant, content: bytes) -> None:
        """Serve a file where the hub has these weights."""
        self.serve(f'/{weights.hub}/resolve/{weights.revision}/model.safetensors', content)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path)
        resumed = re.fullmatch(r'bytes=(\d+)-', request.headers.get('Range', ''))
        start = int(resumed[1]) if resumed else 0
        content, status = self.files.get(path, (b'', 404))
        is_download = request.command == 'GET'
        is_cut = is_download and self.cuts > 0
        if is_download:
            self.asked.append(path + (f' from {start}' if resumed else ''))
            self.cuts -= 1
        request.send_response(206 if resumed else status)
        request.send_header('X-Repo-Commit', 'c' * 40 if '/main/' in path else path.split('/')[-2])
        request.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        request.send_header('Content-Length', str(len(content) - start))
        request.end_headers()
        if is_download:
            request.wfile.write(content[start : (start + len(content)) // 2 if is_cut else None])
            request.close_connection = is_cut


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

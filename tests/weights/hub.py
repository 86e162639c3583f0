"""The hub, and the authors' host, on loopback."""

from __future__ import annotations

import hashlib
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from ghost_det.weights.catalog import Variant


class Hub(ThreadingHTTPServer):
    """A server of files, by path."""

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Answer)
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.files: dict[str, tuple[bytes, int]] = {}  # content and status
        self.cuts = 0  # how many of the coming downloads end half-way
        self.asked: list[str] = []  # the downloads, as '/path' or '/path from BYTE'

    def serve(self, path: str, content: bytes, status: int = 200) -> str:
        self.files[unquote(path)] = content, status
        return self.url + path

    def publish(self, weights: Variant, content: bytes) -> None:
        """Serve a file where the hub has these weights."""
        self.serve(f'/{weights.hub}/resolve/{weights.revision}/model.safetensors', content)


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.server, unquote(self.path)
        resumed = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        start = int(resumed[1]) if resumed else 0
        content, status = hub.files.get(path, (b'', 404))
        is_download = self.command == 'GET'
        is_cut = is_download and hub.cuts > 0
        if is_download:
            hub.asked.append(path + (f' from {start}' if resumed else ''))
            hub.cuts -= 1
        self.send_response(206 if resumed else status)
        self.send_header('X-Repo-Commit', 'c' * 40 if '/main/' in path else path.split('/')[-2])
        self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        if is_download:
            self.wfile.write(content[start : (start + len(content)) // 2 if is_cut else None])
            self.close_connection = is_cut

    do_HEAD = do_GET

"""COCO's server on loopback, its failures, and a COCO of a few images for it to serve."""

from __future__ import annotations

import hashlib
import io
import random
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from ghost_det.data.coco import Archive, Catalog, Part

Failure = str | int
BYTES = random.Random(0).randbytes(3 << 20)
CHUNK = 256 << 10


class Server:
    """A server of files, by path.

    ``failures`` are those of the next requests, one each: 206 (none), another status, ``'cut'`` half-way,
    ``'stall'`` half-way for a second.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.failures: list[Failure] = []
        self.served = 0  # bytes of content
        self.asked: list[tuple[str, str]] = []  # path and range of each request
        self._lock = Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                with suppress(ConnectionError):
                    server._answer(self)

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get('Range', '')
        with self._lock:
            self.asked.append((request.path, asked))
            failure = self.failures.pop(0) if self.failures else None
        content = self.files.get(request.path)
        if content is None or (isinstance(failure, int) and failure != 206):
            request.send_error(failure if isinstance(failure, int) else 404)
            return
        body, part = content, re.fullmatch(r'bytes=(\d+)-(\d+)', asked)
        if part and self.ranges:
            body = content[int(part[1]) : int(part[2]) + 1]
            request.send_response(206)
            request.send_header('Content-Range', f'bytes {part[1]}-{part[2]}/{len(content)}')
        else:
            request.send_response(200)
        request.send_header('Content-Length', str(len(body)))
        request.end_headers()
        if failure in ('cut', 'stall'):
            body = body[: len(body) // 2]
        request.wfile.write(body)
        with self._lock:
            self.served += len(body)
        time.sleep(1 if failure == 'stall' else 0)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    Thread(target=server.server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
    yield server
    server.server.shutdown()
    server.server.server_close()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def archive_of(path: str, content: bytes) -> Archive:
    return Archive(path, len(content), hashlib.sha256(content).hexdigest())


def publish(source: Path, server: Server) -> Catalog:
    """Serve a folder in COCO's layout as COCO's own server does, archives and images."""

    def archive(path: str, members: dict[str, bytes]) -> Archive:
        server.files[f'/{path}'] = zipped(members)
        return archive_of(path, server.files[f'/{path}'])

    annotations = {f'annotations/{p.name}': p.read_bytes() for p in (source / 'annotations').iterdir()}
    annotations['annotations/captions_val2017.json'] = b'{}'
    parts = {}
    for split in ('train', 'val'):
        name = f'{split}2017'
        images = {f'{name}/{p.name}': p.read_bytes() for p in sorted((source / name).iterdir())}
        server.files |= {f'/{path}': content for path, content in images.items()}
        digest = hashlib.sha256(annotations[f'annotations/instances_{name}.json']).hexdigest()
        parts[split] = Part(name, archive(f'zips/{name}.zip', images), len(images), digest)
    return Catalog(archive('annotations/annotations_trainval2017.zip', annotations), parts, server.url)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())

"""The page's server: local, offline, and without a trace of what was shown to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..installed import missing
from .detect import open_models

ROUTES = (
    'assets/',
    'static/',
    'theme.css',
    'config',
    'favicon.ico',
    'gradio_api/upload',
    'gradio_api/queue/',
    'gradio_api/heartbeat/',
    'gradio_api/info',
    'gradio_api/cancel',
)
"""What the page needs of gradio's server, which has many more: some fetch addresses, some run recorders."""
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; frame-ancestors 'self'"
)
Scope = dict[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]


def serve(words: Sequence[str], host: str, port: int, threads: int | None = None) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and leave nothing of the images behind.

    Args:
        words: the models, see `ghost_det.demo.detect.open_models`.
        host: name or address to listen at.
        port: to listen at.
        threads: cores to use.

    Raises:
        UserError: a model cannot be used, the port cannot be had, or gradio is not installed.
    """
    if missing(['gradio']):
        raise UserError('the page needs gradio, which is not installed: pip install "ghost-det[demo]"')
    with listening(host, port) as listener, private_folder() as folder:
        models = open_models(words, threads)
        import uvicorn  # not before the folder is there, which gradio looks up as it is imported

        from .page import application

        app = application(models, folder)

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                app.routes[-1].app.stop_event.set()  # or it would wait for the pages that are open
                await super().shutdown(sockets)

        config = uvicorn.Config(guarded(app, folder), log_level='warning', timeout_graceful_shutdown=2)
        print(f'http://{host}:{port}: {", ".join(models)}; Ctrl-C ends it', flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            Server(config).run(sockets=[listener])


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens.

    Raises:
        UserError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(f'--host {host} --port {port}: cannot listen there ({why})') from None
    with listener:
        yield listener


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a folder for all temporary files of this process, which is gone afterwards, SIGTERM or not."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = tempfile.tempdir
    stops = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else [])]
    handlers = [signal.signal(stop, end) for stop in stops]
    try:
        with tempfile.TemporaryDirectory(prefix='ghost_det-demo-', ignore_cleanup_errors=True) as folder:
            place = os.path.realpath(folder)
            tempfile.tempdir = os.environ['GRADIO_TEMP_DIR'] = place
            os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
            yield Path(place)
    finally:
        tempfile.tempdir = before
        for stop, handler in zip(stops, handlers):
            signal.signal(stop, handler)


def guarded(app: Asgi, folder: Path) -> Asgi:
    """Return an application that answers what the page needs alone, and has browsers fetch nothing elsewhere.

    Args:
        app: gradio's.
        folder: of the files that it may give out.
    """
    routes = (*ROUTES, f'gradio_api/file={folder}/')

    async def guard(scope: Scope, receive: Any, send: Any) -> None:
        path = scope.get('path', '/').lstrip('/')
        if scope['type'] == 'http' and path and not path.startswith(routes):
            await send({'type': 'http.response.start', 'status': 404, 'headers': []})
            await send({'type': 'http.response.body', 'body': b'not part of this page'})
            return

        async def send_with_policy(message: dict[str, Any]) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [
                    *message['headers'],
                    (b'content-security-policy', POLICY.encode()),
                ]
            await send(message)

        await app(scope, receive, send_with_policy)

    return guard

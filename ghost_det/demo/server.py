"""The page's server: local, offline, and without a trace of what was shown to it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ghost_det.errors import UserError
from ghost_det.utils.system import missing

from .results import open_models

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
LOCAL = ('localhost', '127.0.0.1', '::1')
Scope = dict[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]


def serve(words: Sequence[str], host: str, port: int, threads: int | None = None) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and leave nothing of the images behind.

    Args:
        words: the models, see `ghost_det.demo.results.open_models`.
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

        hosts = allowed(host, listener.getsockname()[0])
        config = uvicorn.Config(
            guarded(app, folder, hosts), ws='none', log_level='warning', timeout_graceful_shutdown=2
        )
        everyone = '' if hosts else ' (under any name, to all who reach this machine)'
        address = f'[{host}]' if ':' in host else host
        print(f'http://{address}:{port}{everyone}: {", ".join(models)}; Ctrl-C ends it', flush=True)
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


def allowed(host: str, address: str) -> frozenset[str]:
    """Return the names under which the page answers; none are all.

    Were it all of them always, a site could have its own name point here, and read in the visitor's browser
    what the page tells (DNS rebinding).

    Args:
        host: that was asked for.
        address: where that is.
    """
    ip = ipaddress.ip_address(address.partition('%')[0])
    if ip.is_unspecified:
        return frozenset()
    return frozenset({host.lower(), address, *(LOCAL if ip.is_loopback else ())})


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


def guarded(app: Asgi, folder: Path, hosts: Collection[str]) -> Asgi:
    """Return an application that answers what the page needs alone, and has browsers fetch nothing elsewhere.

    Args:
        app: gradio's.
        folder: of the files that it may give out.
        hosts: see `allowed`.
    """
    routes = (*ROUTES, f'gradio_api/file={folder}/')

    async def guard(scope: Scope, receive: Any, send: Any) -> None:
        path = scope.get('path', '/').lstrip('/')
        refusal = None
        if scope['type'] == 'http' and hosts and _host(scope) not in hosts:
            refusal = 400, b'the page does not go by this name: open the address that it printed'
        elif scope['type'] == 'http' and path and not path.startswith(routes):
            refusal = 404, b'not part of this page'
        elif scope['type'] == 'http' and scope['method'] == 'POST' and _foreign(scope):
            refusal = 403, b'sent by another site: use the page itself'
        if refusal:
            await send({'type': 'http.response.start', 'status': refusal[0], 'headers': []})
            await send({'type': 'http.response.body', 'body': refusal[1]})
            return

        async def send_with_policy(message: dict[str, Any]) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [
                    *message['headers'],
                    (b'content-security-policy', POLICY.encode()),
                ]
            await send(message)

        try:
            await app(scope, receive, send_with_policy)
        except Exception as error:  # of gradio, where a client asks for what there is not
            print(f'/{path!r:.80}: {type(error).__name__}: {str(error)!r:.200}', file=sys.stderr)

    return guard


def _host(scope: Scope) -> str | None:
    """Return the name that a browser was given, without the port."""
    names = _header(scope, b'host')
    try:
        return urlsplit(f'//{names[0]}').hostname if len(names) == 1 else None
    except ValueError:
        return None


def _foreign(scope: Scope) -> bool:
    """Return whether a browser sends this for a page of another site, which needs no leave to send a form.

    No page can set these headers itself (Fetch Metadata; Fetch Standard, "Origin header"). Where a proxy
    ends https, or passes another ``Host``, the browser alone knows: its ``same-origin`` counts first.
    """
    sites = _header(scope, b'sec-fetch-site')
    if sites not in ([], ['none']):
        return sites != ['same-origin']
    try:
        for origin, host in product(_header(scope, b'origin'), _header(scope, b'host')):
            from_, to = urlsplit(origin), urlsplit(f'//{host}')
            usual = {'http': 80, 'https': 443}.get(from_.scheme)
            if (from_.hostname, from_.port or usual) != (to.hostname, to.port or usual):
                return True
    except ValueError:
        return True
    return False


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode('latin-1') for key, value in scope['headers'] if key == name]

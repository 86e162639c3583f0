"""Large files by HTTP: ranges in parallel, resumed after a kill, complete and verified or not there.

No well-kept library does all of this. `huggingface_hub.http_get` (which downloads our weights) and pooch read
one stream; parfive splits a file, but neither resumes nor verifies it; pypdl resumes, but through aiohttp,
writes each range to a file of its own and joins them afterwards, which takes the disk twice, and leaves the
hash to its caller, after the file has its name. Hence this module, on the standard library's urllib.
"""

from __future__ import annotations

import errno
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeVar

from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import sha256

CHUNK = 16 << 20  # bytes: what a kill loses at most, times the number of connections
BLOCK = 256 << 10
STALL = 30.0  # seconds without data, or with less than SLOWEST on average, after which a connection is closed
SLOWEST = 1024  # bytes a second
TRIES = 6  # in a row without a block of progress
PAUSE = 1.0  # seconds before the second try; doubled each time
MAX_SMALL = 16 << 20  # bytes: a server may send without end
_NETWORK = (OSError, http.client.HTTPException, EOFError)

T = TypeVar('T')


class _Stopped(Exception):
    """Another thread failed."""


class RetryPolicy:
    """Waits before another try for a URL, longer each time; gives up when it would be no use."""

    def __init__(self, url: str, stop: Event) -> None:
        self.url, self.stop, self.failures = url, stop, 0

    def wait(self, error: Exception) -> None:
        """Wait before the next try; raise a `UserError` where that would fail too, or there were enough."""
        self.failures += 1
        reason = _explain(error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(f'{self.url}: {reason}; is the address (--url) right?') from None
        if self.failures >= TRIES:
            raise UserError(
                f'{self.url}: {reason}, {TRIES} times in a row; what was downloaded is kept: '
                'run this again to resume'
            ) from None
        pause = PAUSE * 2 ** (self.failures - 1)
        tqdm.write(f'{self.url}: {reason}; retrying in {pause:g} s', file=sys.stderr)
        if self.stop.wait(pause):
            raise _Stopped


def _explain(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f'HTTP {error.code} {error.reason}'
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f'less than {SLOWEST} bytes a second for {STALL:g} s'
    if isinstance(cause, http.client.IncompleteRead | EOFError):
        return 'the connection was cut'
    if isinstance(cause, http.client.HTTPException):
        return str(cause)
    return f'no connection ({cause or type(cause).__name__})'


def _open(url: str, headers: dict[str, str] | None = None) -> Any:
    if not url.startswith(('http://', 'https://')):  # urllib would read file:///etc/passwd
        raise UserError(f'{url}: expected http://... or https://...')
    request = urllib.request.Request(url, headers={'Accept-Encoding': 'identity', **(headers or {})})
    return urllib.request.urlopen(request, timeout=STALL)


def _read(url: str, start: int, end: int, size: int, stop: Event) -> Iterator[tuple[int, bytes]]:
    """Yield (position, bytes) of a range of a file of this size; after a cut from there on."""
    retry, position = RetryPolicy(url, stop), start
    while position < end:
        first = position
        try:
            with _open(url, {'Range': f'bytes={position}-{end - 1}'}) as response:
                _check_range(url, response.headers.get('Content-Range', ''), position, size)
                began = time.monotonic()
                while position < end and (block := response.read1(min(BLOCK, end - position))):
                    yield position, block
                    if stop.is_set():
                        raise _Stopped
                    position += len(block)
                    seconds = time.monotonic() - began
                    if seconds > STALL and position - first < SLOWEST * seconds:
                        raise TimeoutError
            if position < end:
                raise EOFError
        except _NETWORK as error:
            if position - first >= BLOCK:
                retry.failures = 0
            retry.wait(error)


def _check_range(url: str, header: str, position: int, size: int) -> None:
    sent, _, total = header.partition('/')
    if not sent.startswith(f'bytes {position}-'):
        raise UserError(
            f'{url}: the server, or a proxy, sends no ranges; use another with --url, or save the file in '
            '--root by other means'
        )
    if total.isdigit() and int(total) != size:
        raise UserError(f'{url}: not the published file: expected {size:,} bytes, got {int(total):,}')


class _Partial:
    """``NAME.part``, and ``NAME.part.journal``: a line for the file, then one for each chunk on the disk."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path.with_name(f'{path.name}.part')
        self.journal = path.with_name(f'{path.name}.part.journal')
        self._head = f'{digest} {CHUNK}'
        self._lock = Lock()

    def chunks(self) -> set[int]:
        """Return the finished chunks, none if they are of another file; a cut line does not count."""
        try:
            head, *lines = self.journal.read_text().split('\n')[:-1]
        except (OSError, ValueError):
            return set()
        return {int(line) for line in lines if line.isdigit()} if head == self._head else set()

    def start(self, size: int) -> None:
        self.journal.unlink(missing_ok=True)  # first, as it describes the old content
        with self.path.open('wb') as file:
            file.truncate(size)  # not reserved: where that is emulated it writes the whole file
        self.journal.write_text(f'{self._head}\n')

    def add(self, chunk: int) -> None:
        with self._lock, self.journal.open('a') as file:
            file.write(f'{chunk}\n')

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)


def kept_bytes(path: Path, digest: str) -> int:
    """Return how many bytes of ``path`` an interrupted download left on the disk."""
    partial = _Partial(path, digest)
    size = partial.path.stat().st_size if partial.path.is_file() else 0
    return min(size, CHUNK * len(partial.chunks()))


def download(url: str, path: Path, size: int, digest: str, jobs: int = 8) -> None:
    """Download a file of known size and SHA-256, which gets its name only when it is complete and verified.

    Until then `_Partial` is next to it, of its full size but sparse, by which the next call resumes whatever
    ended this one. One process at a time may call this for a ``path``.
    """
    partial = _Partial(path, digest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fill(url, partial, size, jobs)
        found = sha256(partial.path)
        if found != digest:
            partial.remove()
            raise UserError(
                f'{url}: wrong content: expected SHA-256 {digest}, got {found}; the file was removed: '
                'run this again, or use another source with --url'
            )
        partial.path.replace(path)
    except OSError as error:
        raise disk_error(error, path.parent) from None
    finally:
        if path.exists() or not partial.chunks():
            partial.remove()


def disk_error(error: OSError, folder: Path) -> UserError:
    """Return the message for a file system's error in a folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f'{folder}: the disk is full; what was downloaded is kept: free some space, and run this again '
            'to resume'
        )
    return UserError(f'{error.filename or folder}: cannot be read or written ({error.strerror or error})')


def _fill(url: str, partial: _Partial, size: int, jobs: int) -> None:
    """Write what a partial file lacks."""
    complete = partial.path.is_file() and partial.path.stat().st_size == size
    done = partial.chunks() if complete else set()
    if not done:
        partial.start(size)
    missing = [chunk for chunk in range(-(-size // CHUNK)) if chunk not in done]
    stop = Event()

    def fetch(chunk: int) -> None:
        start = CHUNK * chunk
        with partial.path.open('r+b') as file:
            for position, block in _read(url, start, min(start + CHUNK, size), size, stop):
                file.seek(position)
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
        partial.add(chunk)

    present = size - sum(min(CHUNK, size - CHUNK * chunk) for chunk in missing)
    name = partial.path.stem
    with tqdm(total=size, initial=present, desc=name, unit='B', unit_scale=True, disable=None) as bar:
        run_all(fetch, missing, jobs, stop)


def run_all(work: Callable[[T], None], items: list[T], jobs: int, stop: Event) -> None:
    """Call ``work`` for each item in threads; the first error, or Ctrl-C, sets ``stop`` and is raised."""

    def work_unless_stopped(item: T) -> None:
        if not stop.is_set():
            work(item)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(work_unless_stopped, item) for item in items]):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def fetch_small(url: str, stop: Event) -> bytes:
    """Return a small file's content, unless ``stop`` is set before it could be downloaded."""
    retry = RetryPolicy(url, stop)
    while True:
        try:
            with _open(url) as response:
                content: bytes = response.read(MAX_SMALL + 1)
                left = response.length  # read() of so many bytes does not report a cut
            if len(content) > MAX_SMALL:
                raise UserError(f'{url}: over {MAX_SMALL:,} bytes, which no image of the data set has')
            if left:
                raise EOFError
            return content
        except _NETWORK as error:
            retry.wait(error)

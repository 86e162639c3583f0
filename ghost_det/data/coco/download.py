"""Large files by HTTP: ranges in parallel, resumed to the chunk after a kill, whole and right or not there.

No well-kept library does all of this. `huggingface_hub.http_get` (which has our weights) and pooch read one
stream; parfive splits a file, but neither resumes nor verifies it; pypdl resumes, but through aiohttp, writes
each range to a file of its own and joins them afterwards, which takes the disk twice, and leaves the hash to
its caller, after the file has its name. Hence this module, on the standard library's urllib.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import sha256

CHUNK = 16 << 20  # bytes; what a kill loses at most, times the number of connections
BLOCK = 256 << 10
STALL = 30.0  # seconds after which a connection is given up that gives nothing, or less than:
SLOWEST = 1024  # bytes a second
TRIES = 6  # in a row without a block of progress
PAUSE = 1.0  # seconds before the second try; doubled each time
RESTARTS = 3
MAX_SMALL = 16 << 20  # bytes; a server may send without an end
_NETWORK = (OSError, http.client.HTTPException)
_NO_URL = '--url: {}: http://... or https://... is wanted'
_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar('T')


class _Changed(Exception):
    """The server's file is another one than at the last request."""


class _Stopped(Exception):
    """Another thread failed."""


@dataclass(frozen=True)
class Remote:
    """A file as its server tells of it.

    Attributes:
        url: its address.
        size: in bytes.
        tag: ``ETag``, else ``Last-Modified``, else empty: what differs when the file does.
        ranges: whether the server gives parts of it.
    """

    url: str
    size: int
    tag: str
    ranges: bool


class _Patience:
    """Counts the tries for one URL and waits between them; says when it is no use."""

    def __init__(self, url: str, stop: Event) -> None:
        self.url, self.stop, self.tries = url, stop, 0

    def after(self, error: BaseException) -> None:
        """Wait before another try.

        Raises:
            UserError: another one would end in the same way, or there were enough.
        """
        self.tries += 1
        reason = _reason(error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(f'{self.url}: {reason}; is the address (--url) right?') from None
        if self.tries >= TRIES:
            raise UserError(
                f'{self.url}: {reason}, {TRIES} times in a row; what is here is kept: run this again to go on'
            ) from None
        pause = PAUSE * 2 ** (self.tries - 1)
        tqdm.write(f'{self.url}: {reason}; once more in {pause:g} s', file=sys.stderr)
        if self.stop.wait(pause):
            raise _Stopped


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f'HTTP {error.code} {error.reason}'
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f'nothing, or next to nothing, came for {STALL:g} s'
    if isinstance(cause, http.client.IncompleteRead | EOFError):
        return 'the connection was cut'
    return f'no connection ({cause or type(cause).__name__})'


def check_url(url: str) -> str:
    """Return an address that may be fetched from.

    Raises:
        UserError: it is of another kind, or of none.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UserError(_NO_URL.format(url)) from None
    if parts.scheme not in ('http', 'https') or not parts.netloc:
        raise UserError(_NO_URL.format(url))
    return url


def _open(url: str, **headers: str) -> Any:
    headers.setdefault('Accept-Encoding', 'identity')
    check_url(url)  # urllib would read file:///etc/passwd
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL)
    except (ValueError, http.client.InvalidURL):
        raise UserError(_NO_URL.format(url)) from None


def _tag(headers: Any) -> str:
    return headers.get('ETag') or headers.get('Last-Modified') or ''


def _probe(url: str, size: int, stop: Event) -> Remote:
    """Ask for the first byte: that tells more of a server than HEAD does, which some refuse."""
    patience = _Patience(url, stop)
    while True:
        try:
            with _open(url, Range='bytes=0-0') as response:
                ranges = response.status == 206
                told = response.headers.get('Content-Range', '').rpartition('/')[2]
                told = told if ranges else response.headers.get('Content-Length') or str(size)
                found = Remote(url, int(told) if told.isdigit() else size, _tag(response.headers), ranges)
            break
        except _NETWORK as error:
            patience.after(error)
    if found.size != size:
        raise UserError(
            f'{url}: {found.size:,} bytes there, {size:,} are wanted: another file than the known'
        )
    return found


def _read(remote: Remote, start: int, end: int, stop: Event) -> Iterator[tuple[int, bytes]]:
    """Yield (position, bytes) of a range; after a cut on from there, or from the start without ranges."""
    patience, position = _Patience(remote.url, stop), start
    while position < end:
        position = began = position if remote.ranges else start
        headers = {'Range': f'bytes={position}-{end - 1}'} if remote.ranges else {}
        if remote.ranges and remote.tag and not remote.tag.startswith('W/'):
            headers['If-Range'] = remote.tag
        try:
            with _open(remote.url, **headers) as response:
                wanted = f'bytes {position}-{end - 1}/{remote.size}' if remote.ranges else None
                same = _tag(response.headers) in ('', remote.tag)
                if not same or response.headers.get('Content-Range') != wanted:
                    raise _Changed
                mark, since = position, time.monotonic()
                while position < end and (block := response.read1(min(BLOCK, end - position))):
                    yield position, block
                    if stop.is_set():
                        raise _Stopped
                    position += len(block)
                    if time.monotonic() - since > STALL:
                        if position - mark < STALL * SLOWEST:
                            raise TimeoutError
                        mark, since = position, time.monotonic()
            if position < end:
                raise EOFError
        except urllib.error.HTTPError as error:
            if error.code in (412, 416):
                raise _Changed from None
            patience.after(error)
        except (*_NETWORK, EOFError) as error:
            if remote.ranges and position - began >= BLOCK:
                patience.tries = 0
            patience.after(error)


class _Journal:
    """Which chunks of a partial file are on the disk: a line for the remote file, then one for each chunk."""

    def __init__(self, partial: Path) -> None:
        self.path = partial.with_name(f'{partial.name}.journal')
        self._lock = Lock()

    def done(self, remote: Remote | None = None) -> set[int]:
        """Return the finished chunks, none if they are of another file; a cut line does not count."""
        try:
            head, *lines = self.path.read_text().split('\n')[:-1]
        except (OSError, ValueError):
            return set()
        known = remote is None or head == self._head(remote)
        return {int(line) for line in lines if line.isdigit()} if known else set()

    def begin(self, remote: Remote) -> None:
        self.path.write_text(self._head(remote) + '\n')

    def add(self, chunk: int) -> None:
        with self._lock, self.path.open('a') as file:
            file.write(f'{chunk}\n')

    @staticmethod
    def _head(remote: Remote) -> str:
        return json.dumps([remote.size, remote.tag, CHUNK])


def partial_of(path: Path) -> Path:
    """Return the file that `download` writes to before ``path`` has its name."""
    return path.with_name(f'{path.name}.part')


def kept(path: Path) -> int:
    """Return how many bytes of ``path`` an earlier try left on the disk."""
    partial = partial_of(path)
    size = partial.stat().st_size if partial.is_file() else 0
    return min(size, CHUNK * len(_Journal(partial).done()))


def download(url: str, path: Path, size: int, digest: str, jobs: int = 8) -> None:
    """Have a file of known size and hash, which gets its name only when it is whole and right.

    Beside it are, until then, ``NAME.part``, of its full size but sparse, and ``NAME.part.journal``, by which
    the next call goes on, whatever ended this one. One process at a time may call this for a ``path``.

    Args:
        url: http or https.
        path: the file.
        size: of it, in bytes.
        digest: its SHA-256.
        jobs: connections at once.

    Raises:
        UserError: it cannot be had or written, or is another file; the message says what is kept.
    """
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(RESTARTS):
            with contextlib.suppress(_Changed):
                _fill(_probe(url, size, Event()), partial, jobs)
                break
        else:
            raise UserError(f'{url}: changes while it is downloaded, {RESTARTS} times in a row')
        found = sha256(partial)
        if found != digest:
            partial.unlink()
            _Journal(partial).path.unlink(missing_ok=True)
            raise UserError(
                f'{url}: wrong content: its SHA-256 is {found}, {digest} is wanted; it was removed: '
                'run this again, or take another source with --url'
            )
        partial.replace(path)
        _Journal(partial).path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_fault(error, path.parent) from None


def disk_fault(error: OSError, folder: Path) -> UserError:
    """Return what to tell of a file system's error in a folder."""
    if error.errno in _FULL:
        return UserError(
            f'{folder}: the disk is full; what is there is kept: make room, and run this again to go on'
        )
    return UserError(f'{error.filename or folder}: cannot be read or written ({error.strerror or error})')


def _fill(remote: Remote, partial: Path, jobs: int) -> None:
    """Write what is missing of a partial file."""
    journal = _Journal(partial)
    whole = partial.is_file() and partial.stat().st_size == remote.size
    done = journal.done(remote) if whole and remote.ranges else set()
    if not done:
        if journal.done():
            tqdm.write(
                f'{remote.url}: another file than at the last try; from the start again', file=sys.stderr
            )
        journal.path.unlink(missing_ok=True)  # first, as it speaks of the old content
        with partial.open('wb') as file:
            file.truncate(remote.size)  # not reserved: where that is emulated it writes the whole file
        journal.begin(remote)
    step = CHUNK if remote.ranges else remote.size
    chunks = range(-(-remote.size // step))
    present = sum(min(step, remote.size - step * chunk) for chunk in done)
    stop = Event()

    def fetch(chunk: int) -> None:
        start, end = step * chunk, min(step * (chunk + 1), remote.size)
        reached = start
        with partial.open('r+b') as file:
            for position, block in _read(remote, start, end, stop):
                file.seek(position)
                file.write(block)
                bar.update(position + len(block) - reached)  # negative after a fresh start
                reached = position + len(block)
            file.flush()
            os.fsync(file.fileno())
        journal.add(chunk)

    name = partial.name.removesuffix('.part')
    with tqdm(total=remote.size, initial=present, desc=name, unit='B', unit_scale=True, disable=None) as bar:
        run_all(fetch, [chunk for chunk in chunks if chunk not in done], jobs, stop)


def run_all(work: Callable[[T], None], items: list[T], jobs: int, stop: Event | None = None) -> None:
    """Call ``work`` for each item in threads; the first error ends all of them, and is raised.

    Args:
        work: what to do for one.
        items: for what.
        jobs: threads.
        stop: set after an error, or an interruption, for those who look at it.
    """
    stop = stop or Event()

    def one(item: T) -> None:
        if not stop.is_set():
            work(item)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(one, item) for item in items]):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def fetch_small(url: str, stop: Event) -> bytes:
    """Return a small file's content.

    Args:
        url: http or https.
        stop: set by whoever no longer wants it.

    Raises:
        UserError: it cannot be had.
    """
    patience = _Patience(url, stop)
    while True:
        try:
            with _open(url) as response:
                content: bytes = response.read(MAX_SMALL + 1)
                left = response.length  # read() of so many bytes says nothing of a cut
            if len(content) > MAX_SMALL:
                raise UserError(f'{url}: over {MAX_SMALL:,} bytes, which no image of the data set has')
            if left:
                raise EOFError
            return content
        except (*_NETWORK, EOFError) as error:
            patience.after(error)

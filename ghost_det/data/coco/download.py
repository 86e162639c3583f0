"""Large files by HTTP: in parallel ranges, resumed after a kill, complete and verified or not there.

No well-kept library does all of this: `huggingface_hub.http_get` and pooch read one stream, parfive neither
resumes nor verifies, and pypdl needs twice the disk space and leaves the hash to its caller.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from threading import Event

from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import sha256
from ghost_det.utils.threads import ordered

CHUNK = 8 << 20  # bytes of a request; a few for each connection are in memory
BLOCK = 256 << 10
STALL = 30.0  # seconds without data after which a connection is closed
TRIES = 6  # in a row without a block of progress
PAUSE = 1.0  # seconds before the second try; doubled each time
MAX_SMALL = 16 << 20  # bytes
_NETWORK = (OSError, http.client.HTTPException, EOFError)


def part_of(path: Path) -> Path:
    """Return where the start of a file is kept until the file is complete."""
    return path.with_name(f'{path.name}.part')


def download(url: str, path: Path, size: int, digest: str, jobs: int = 8) -> None:
    """Download a file of known size and SHA-256, which gets its name only when it is complete and verified.

    Until then, ``NAME.part`` holds its start, from which the next call resumes.
    """
    part = part_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _append(url, part, size, jobs)
    found = sha256(part)
    if found != digest:
        part.unlink()
        raise UserError(
            f'{url}: wrong content: expected SHA-256 {digest}, got {found}; the file was removed: '
            'run this again, or use another source with --url'
        )
    part.replace(path)


def _append(url: str, part: Path, size: int, jobs: int) -> None:
    """Download what a partial file lacks, and append it."""
    done = part.stat().st_size if part.exists() else 0
    if done < size:  # a loss of power may have spoiled the last chunk
        done = max(0, (done - 1) // CHUNK * CHUNK)
    stop = Event()

    def fetch(start: int) -> bytes:
        return _fetch(url, start, min(start + CHUNK, size), size, stop)

    with (
        part.open('ab') as file,
        tqdm(total=size, initial=done, desc=part.stem, unit='B', unit_scale=True, disable=None) as bar,
    ):
        file.truncate(done)
        for content in ordered(fetch, range(done, size, CHUNK), jobs, stop):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(content))


def fetch_small(url: str, stop: Event) -> bytes:
    """Return the content of a small file; ``stop`` ends it early."""
    return _fetch(url, 0, MAX_SMALL, None, stop)


def _fetch(url: str, start: int, end: int, size: int | None, stop: Event) -> bytes:
    """Return a range of a file, up to its end; after a cut, the rest is requested. ``stop`` ends it early."""
    content = bytearray()
    failures = 0
    while len(content) < end - start and not stop.is_set():
        before = len(content)
        headers = {'Accept-Encoding': 'identity', 'Range': f'bytes={start + before}-{end - 1}'}
        request = urllib.request.Request(url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=STALL) as response:
                total = _check_range(url, response.headers.get('Content-Range', ''), start + before, size)
                end = min(end, total or end)
                while len(content) < end - start and not stop.is_set():
                    block = response.read1(min(BLOCK, end - start - len(content)))
                    if not block:
                        raise EOFError
                    content += block
        except _NETWORK as error:
            failures = 1 if len(content) - before >= BLOCK else failures + 1
            _wait(url, error, failures, stop)
    return bytes(content)


def _check_range(url: str, header: str, position: int, size: int | None) -> int | None:
    """Return the size of the file, if the server names it."""
    sent, _, total = header.partition('/')
    if not sent.startswith(f'bytes {position}-'):
        raise UserError(
            f'{url}: the server or a proxy does not support range requests; use a mirror with --url, or '
            'save the file in --root yourself'
        )
    if total.isdigit() and size is not None and int(total) != size:
        raise UserError(f'{url}: not the published file: expected {size:,} bytes, got {int(total):,}')
    return int(total) if total.isdigit() else None


def _wait(url: str, error: Exception, failures: int, stop: Event) -> None:
    """Wait before the next try; raise a `UserError` after the last one, or if another would fail too."""
    reason = f'no connection ({error or type(error).__name__})'
    if isinstance(error, http.client.IncompleteRead | EOFError):
        reason = 'the connection was cut'
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        reason = f'HTTP {error.code} {error.reason}'
        if error.code < 500 and error.code not in (408, 429):
            raise UserError(f'{url}: {reason}; check --url') from None
    if failures >= TRIES:
        raise UserError(
            f'{url}: {reason}, {TRIES} times in a row; what was downloaded is kept: run this again to resume'
        ) from None
    pause = PAUSE * 2 ** (failures - 1)
    tqdm.write(f'{url}: {reason}; retrying in {pause:g} s', file=sys.stderr)
    stop.wait(pause)

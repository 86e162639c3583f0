from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from ghost_det.data.coco import download
from ghost_det.errors import UserError, run_tool

from .coco_server import (
    BYTES,
    CHUNK,
    Failure,
    Server,
    archive_of,
    names,
    settle,
    wait_for,
)

pytestmark = pytest.mark.usefixtures('impatient')


def get(server: Server, folder: Path, jobs: int = 4, content: bytes = BYTES) -> bytes:
    archive = archive_of('a.zip', content)
    download.download(f'{server.url}/a.zip', folder / 'a.zip', archive.size, archive.sha256, jobs)
    return (folder / 'a.zip').read_bytes()


def kept_bytes(folder: Path) -> int:
    return download.kept_bytes(folder / 'a.zip', archive_of('a.zip', BYTES).sha256)


def test_ranges_come_in_parallel_and_only_the_file_is_left(server: Server, tmp_path: Path) -> None:
    assert get(server, tmp_path) == BYTES
    assert names(tmp_path) == ['a.zip'] and server.served == len(BYTES)
    assert len(server.asked) == len(BYTES) // CHUNK


@pytest.mark.parametrize(
    'failures', [['cut'] * 5, [500, 503, 429], ['stall'], ['trickle'], ['cut', 500, 'stall']]
)
def test_a_failed_request_is_retried_from_where_it_was(
    failures: list[Failure], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.failures = list(failures)
    assert get(server, tmp_path) == BYTES and names(tmp_path) == ['a.zip']
    assert not server.failures and capsys.readouterr().err.count('retrying in') == len(failures)
    # Nothing that had come was asked for again, except for buffers.
    assert server.served <= len(BYTES) + 2 * CHUNK


def test_a_link_that_is_cut_more_often_than_there_are_tries_gets_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, 'CHUNK', len(BYTES))
    server.failures = ['cut'] * (download.TRIES + 1)  # each half-way of what is left
    assert get(server, tmp_path) == BYTES and not server.failures


@pytest.mark.parametrize(
    ('harm', 'message'),
    [
        (lambda s: s.failures.extend([500] * 60), 'HTTP 500'),
        (lambda s: s.files.clear(), 'HTTP 404'),
        (lambda s: s.files.update({'/a.zip': BYTES[:-1]}), 'expected 3,145,728 bytes, got 3,145,727'),
        (lambda s: s.files.update({'/a.zip': BYTES[:-1] + b'!'}), 'wrong content: expected SHA-256'),
    ],
)
def test_a_failed_download_is_one_message_and_no_file(
    harm: Callable[[Server], object],
    message: str,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm(server)
    with pytest.raises(SystemExit) as ended:
        run_tool(lambda: get(server, tmp_path) and None)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and message in printed and printed.count('error:') == 1
    assert 'Traceback' not in printed and 'a.zip' not in names(tmp_path)
    if 'wrong content' in message:
        assert names(tmp_path) == []


def test_a_missing_server_and_another_scheme_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'http://127.0.0.1:9/a.zip: no connection .* run this again'):
        download.download('http://127.0.0.1:9/a.zip', tmp_path / 'a.zip', 1, '', 1)
    with pytest.raises(UserError, match='file:///etc/passwd: expected http'):
        download.download('file:///etc/passwd', tmp_path / 'a.zip', 1, '', 1)
    assert names(tmp_path) == []


def test_a_server_without_ranges_is_refused(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    with pytest.raises(UserError, match='sends no ranges; use another with --url, or save the file'):
        get(server, tmp_path)
    assert 'a.zip' not in names(tmp_path)


def test_a_journal_counts_only_for_its_own_file(server: Server, tmp_path: Path) -> None:
    server.failures = [206, 206, 404]
    with pytest.raises(UserError, match='404'):
        get(server, tmp_path, jobs=1)
    assert kept_bytes(tmp_path) == 2 * CHUNK
    server.files['/a.zip'] = BYTES[::-1]
    assert get(server, tmp_path, content=BYTES[::-1]) == BYTES[::-1]

    (tmp_path / 'a.zip').write_bytes(BYTES)
    (tmp_path / 'a.zip').rename(tmp_path / 'a.zip.part')
    digest = archive_of('a.zip', BYTES).sha256
    (tmp_path / 'a.zip.part.journal').write_text(f'{digest} {CHUNK}\n0\n2\n1')  # of 11, which was cut
    server.served, server.files['/a.zip'] = 0, BYTES
    assert get(server, tmp_path) == BYTES and server.served == len(BYTES) - 2 * CHUNK


def test_a_small_file_has_a_limit_and_a_cut_one_is_retried(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.failures = ['cut']
    assert download.fetch_small(f'{server.url}/a.zip', Event()) == BYTES
    monkeypatch.setattr(download, 'MAX_SMALL', len(BYTES) - 1)
    with pytest.raises(UserError, match='over 3,145,727 bytes'):
        download.fetch_small(f'{server.url}/a.zip', Event())


def test_a_killed_download_resumes_where_it_was(server: Server, tmp_path: Path) -> None:
    server.hold_after = len(BYTES) // 2
    archive = archive_of('a.zip', BYTES)
    target = [f'{server.url}/a.zip', str(tmp_path / 'a.zip'), archive.size, archive.sha256]
    script = (
        'from pathlib import Path; from ghost_det.data.coco import download\n'
        f'download.CHUNK, download.BLOCK = {CHUNK}, 1 << 15\n'
        f'download.download({target[0]!r}, Path({target[1]!r}), *{target[2:]!r}, 3)'
    )
    without_mmdet = {**os.environ, 'GHOST_DET_RUNTIME': '1'}  # which takes seconds
    child = subprocess.Popen([sys.executable, '-c', script], stderr=subprocess.PIPE, env=without_mmdet)
    journal = tmp_path / 'a.zip.part.journal'
    wait_for(lambda: server.served >= len(BYTES) // 2 and journal.read_text().count('\n') >= 3)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = kept_bytes(tmp_path)
    assert names(tmp_path) == ['a.zip.part', 'a.zip.part.journal']
    server.hold_after = None
    server.go.set()
    first = settle(server)
    assert get(server, tmp_path) == BYTES
    print(f'killed after {first:,} of {len(BYTES):,} bytes, {done:,} kept; then {server.served:,}')
    assert done >= 2 * CHUNK and server.served == len(BYTES) - done


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real disk of 2 MiB where we may mount one; elsewhere, one that reports that it is full."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = (
        shutil.which('mount')
        and not subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)], capture_output=True
        ).returncode
    )
    if not mounted:
        calls = iter([None] * 5)

        def fsync(number: int) -> None:
            if next(calls, 'full') == 'full':
                raise OSError(28, 'No space left on device')

        monkeypatch.setattr(os, 'fsync', fsync)
    yield folder
    if mounted:
        subprocess.run(['umount', str(folder)], check=True)


def test_a_full_disk_keeps_what_came(
    small_disk: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r'disk: the disk is full; what was downloaded is kept: free some'):
        get(server, small_disk)
    assert names(small_disk) == ['a.zip.part', 'a.zip.part.journal']
    done = kept_bytes(small_disk)
    if os.path.ismount(small_disk):
        subprocess.run(['mount', '-o', 'remount,size=8m', str(small_disk)], check=True)
    else:
        monkeypatch.undo()
        monkeypatch.setattr(download, 'CHUNK', CHUNK)
    settle(server)
    assert get(server, small_disk) == BYTES
    assert done >= 3 * CHUNK and server.served == len(BYTES) - done

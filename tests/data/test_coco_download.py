from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from ghost_det.data.coco import download
from ghost_det.errors import UserError

from .coco_server import BYTES, CHUNK, Failure, Server, archive_of, names

pytestmark = pytest.mark.usefixtures('impatient')


def get(server: Server, folder: Path, jobs: int = 4, content: bytes = BYTES) -> bytes:
    archive = archive_of('a.zip', content)
    download.download(f'{server.url}/a.zip', folder / 'a.zip', archive.size, archive.sha256, jobs)
    return (folder / 'a.zip').read_bytes()


@pytest.mark.parametrize('failures', [[], ['cut'] * 5 + [500, 503, 429], ['cut', 500, 'stall']])
def test_failed_requests_are_retried_from_where_they_were(
    failures: list[Failure], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.failures = list(failures)
    assert get(server, tmp_path) == BYTES and names(tmp_path) == ['a.zip']
    assert not server.failures and capsys.readouterr().err.count('retrying in') == len(failures)
    assert server.served <= len(BYTES) + 2 * CHUNK * bool(failures)  # buffers of lost connections
    assert len(server.asked) == len(BYTES) // CHUNK + len(failures)


def test_a_connection_that_progresses_may_be_cut_more_often_than_there_are_tries(server: Server) -> None:
    server.failures = ['cut'] * (download.TRIES + 1)  # each half-way of what is left
    assert download.fetch_small(f'{server.url}/a.zip', Event()) == BYTES and not server.failures
    assert [asked for _, asked in server.asked][1].startswith(f'bytes={len(BYTES) // 2}-')


@pytest.mark.parametrize(
    ('harm', 'message'),
    [
        (lambda s: s.failures.extend([500] * 60), 'HTTP 500'),
        (lambda s: s.files.clear(), 'HTTP 404'),
        (lambda s: s.files.update({'/a.zip': BYTES[:-1]}), 'expected 3,145,728 bytes, got 3,145,727'),
        (lambda s: s.files.update({'/a.zip': BYTES[:-1] + b'!'}), 'SHA-256'),
        (lambda s: setattr(s, 'ranges', False), 'does not support range requests'),
        (lambda s: setattr(s, 'url', 'http://127.0.0.1:9'), 'no connection'),
    ],
)
def test_a_failed_download_is_one_message_and_no_file(
    harm: Callable[[Server], object], message: str, server: Server, tmp_path: Path
) -> None:
    harm(server)
    with pytest.raises(UserError, match=message) as error:
        get(server, tmp_path)
    assert '/a.zip: ' in str(error.value)
    assert names(tmp_path) == ([] if message == 'SHA-256' else ['a.zip.part'])


def test_an_interrupted_download_resumes_before_its_last_chunk(server: Server, tmp_path: Path) -> None:
    server.failures = [206, 206, 206, 404]
    with pytest.raises(UserError, match='404'):
        get(server, tmp_path, jobs=1)
    assert (tmp_path / 'a.zip.part').read_bytes() == BYTES[: 3 * CHUNK]
    server.asked.clear()
    assert get(server, tmp_path, jobs=1) == BYTES
    assert server.asked[0][1] == f'bytes={2 * CHUNK}-{3 * CHUNK - 1}'
    (tmp_path / 'a.zip').rename(tmp_path / 'a.zip.part')  # complete, but not yet verified
    server.asked.clear()
    assert get(server, tmp_path) == BYTES and not server.asked


def test_ctrl_c_does_not_wait_for_stalled_connections(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, 'PAUSE', 60)
    monkeypatch.setattr(download.os, 'fsync', lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
    server.failures = [206, 500]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, jobs=1)
    assert time.monotonic() - started < 20

"""Downloads from a hub on loopback that fails in every way."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from ghost_det.errors import UserError
from ghost_det.weights.catalog import PUBLISHED, Weights, named
from ghost_det.weights.download import by_hand, fetch, fetch_url, git_blob_of, locate
from tests.conftest import ROOT

from .hub import Hub, ask, running

GONE = 'http://127.0.0.1:9'  # nobody listens


def zipped(seed: int) -> bytes:
    torch.manual_seed(seed)
    file = io.BytesIO()
    torch.save({'a': torch.rand(2000)}, file)
    return file.getvalue()


HUBS = save({'a': torch.rand(1000)})
UPSTREAMS = zipped(0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture(params=['known', 'unknown'])
def weights(request: pytest.FixtureRequest, hub: Hub) -> Weights:
    """An entry with and without commit and hashes."""
    entry = replace(PUBLISHED['ghostnetv2_130'], url=f'{hub.url}/raw/weights.pth')
    if request.param == 'unknown':
        return entry
    blob = hashlib.sha1(b'blob %d\0' % len(UPSTREAMS) + UPSTREAMS).hexdigest()
    return replace(entry, revision='a' * 40, sha256=hashlib.sha256(HUBS).hexdigest(), git_blob=blob)


def downloads() -> list[Path]:
    folder = Path(os.environ['TORCH_HOME'], 'hub', 'checkpoints')
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_an_unknown_name_is_answered_by_the_known_ones() -> None:
    with pytest.raises(UserError, match='ghostnet_200: no such published weights; .*ghostnet_100, .*_200$'):
        locate('ghost://ghostnet_200')


def test_the_git_hash_is_gits(tmp_path: Path) -> None:
    (tmp_path / 'a').write_bytes(b'hello\n')
    assert git_blob_of(tmp_path / 'a') == 'ce013625030ba8dba906f756967f9e9ca394464a'  # git hash-object


def test_the_hubs_file_is_downloaded_once(
    hub: Hub, weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.publish(weights, HUBS)
    path = fetch(weights)
    assert path.read_bytes() == HUBS
    ask(monkeypatch, GONE, tmp_path)
    assert fetch(weights) == path
    assert hub.asked == [f'/{weights.hub}/resolve/{weights.revision}/model.safetensors']


def test_content_damaged_on_the_way_is_downloaded_again(hub: Hub, weights: Weights) -> None:
    hub.publish(weights, HUBS, 'flip', None)
    assert fetch(weights).read_bytes() == HUBS
    assert len(hub.asked) == 2


def test_content_damaged_twice_is_refused_by_its_hash(hub: Hub, weights: Weights) -> None:
    hub.publish(weights, HUBS, 'flip')
    wrong = hashlib.sha256(HUBS[:-1] + bytes([HUBS[-1] ^ 1])).hexdigest()
    right = hashlib.sha256(HUBS).hexdigest()
    for _ in range(2):
        with pytest.raises(UserError, match=f'expected the SHA-256 {right}, got {wrong}'):
            fetch(weights, ['hub'])
    assert len(hub.asked) == 3  # two, and one more since what lies in the cache is not believed


@pytest.mark.parametrize('damage', [lambda content: content[:-9], lambda content: content[:-1] + b'\xff'])
def test_a_copy_damaged_in_the_cache_is_downloaded_again(
    hub: Hub, weights: Weights, damage: Callable[[bytes], bytes]
) -> None:
    hub.publish(weights, HUBS)
    fetch(weights).resolve().write_bytes(damage(HUBS))
    assert fetch(weights).read_bytes() == HUBS
    assert len(hub.asked) == 2


def test_a_copy_damaged_in_the_cache_is_named_where_the_hub_is_gone(
    hub: Hub, weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.publish(weights, HUBS)
    path = fetch(weights)
    path.resolve().write_bytes(HUBS[:-9])
    ask(monkeypatch, GONE, tmp_path)
    with pytest.raises(
        UserError, match=rf'no connection \(.*Connection refused\); and the copy here is damaged: {path}'
    ):
        fetch(weights, ['hub'])


@pytest.mark.parametrize('source', ['hub', 'upstream'])
def test_a_cut_download_is_resumed(
    hub: Hub, weights: Weights, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 512)  # 10 MiB
    hub.publish(weights, HUBS, 'cut', None)
    hub.serve('/raw/weights.pth', UPSTREAMS, 'cut', None)
    content = {'hub': HUBS, 'upstream': UPSTREAMS}[source]
    assert fetch(weights, [source]).read_bytes() == content
    first, second = hub.asked
    assert second == f'{first} from {len(content) // 2 // 512 * 512}'


def test_a_download_that_is_always_cut_is_reported(hub: Hub, weights: Weights) -> None:
    hub.publish(weights, HUBS, 'cut')
    hub.serve('/raw/weights.pth', UPSTREAMS, 'cut')
    with pytest.raises(UserError, match='(?s)closed connection.*closed connection.*Options'):
        fetch(weights)
    assert downloads() == []


@pytest.mark.parametrize('faults', [[404], ['flip'], ['cut'], None])
def test_where_the_hub_fails_the_authors_file_is_taken(
    hub: Hub, weights: Weights, faults: list[str | int] | None
) -> None:
    if faults:
        hub.publish(weights, HUBS, *faults)
    hub.serve('/raw/weights.pth', UPSTREAMS)
    path = fetch(weights)
    assert path.read_bytes() == UPSTREAMS and [path] == downloads()


def test_where_both_fail_one_message_has_the_reasons_and_the_options(
    hub: Hub, weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask(monkeypatch, GONE, tmp_path)
    with pytest.raises(UserError) as error:
        fetch(weights)
    lines = str(error.value).splitlines()
    assert lines[0] == f'ghost://{weights.name}: could not be downloaded:'
    assert (
        lines[1].startswith(f'  https://huggingface.co/{weights.hub} (to ')
        and 'Connection refused' in lines[1]
    )
    assert lines[2].startswith(f'  {weights.url} (to ') and '404 Not Found' in lines[2]
    page = f'https://huggingface.co/{weights.hub}/resolve/{weights.revision}/model.safetensors'
    assert lines[3].startswith(
        f'Options: save {page} as {by_hand(weights)}, or {weights.url} as {by_hand(weights, ".pth")}; '
    )
    assert 'pretrained FILE' in lines[3] and 'init_cfg=None' in lines[3] and len(lines) == 4


@pytest.mark.parametrize(('suffix', 'known'), [('.safetensors', 'sha256'), ('.pth', 'git_blob')])
def test_a_file_put_there_by_hand_comes_first(hub: Hub, weights: Weights, suffix: str, known: str) -> None:
    hub.publish(weights, HUBS)
    path = by_hand(weights, suffix)
    path.parent.mkdir(parents=True)
    path.write_bytes(HUBS)
    assert fetch(replace(weights, git_blob=None)) == path and hub.asked == []
    with pytest.raises(UserError, match='not the published file: expected the hash'):
        fetch(replace(weights, **{known: '0' * 40}))


def test_names_files_and_addresses_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ('ghostnet_100', 'ghost://ghostnet_1x', 'ghostnet_1x'):
        assert named(name) is PUBLISHED['ghostnet_100']
    monkeypatch.chdir(tmp_path)
    Path('ghostnet_100').touch()
    assert named('ghostnet_100') is None and locate('ghostnet_100') == Path('ghostnet_100')
    for wrong in ('ghost:/ghostnet_100', 'file:///x.pth', 's3://bucket/x.pth'):
        with pytest.raises(UserError, match='expected ghost://NAME, .* or a path'):
            locate(wrong)


def test_the_clients_own_environment_is_obeyed(hub: Hub, tmp_path: Path) -> None:
    entry = PUBLISHED['repghostnet_130']  # with a commit, without hashes
    hub.publish(entry, HUBS)
    script = (
        'import json, sys\n'
        'from ghost_det.errors import UserError\n'
        'from ghost_det.weights.catalog import PUBLISHED\n'
        'from ghost_det.weights.download import fetch\n'
        'for name in sys.argv[1:]:\n'
        '    try:\n'
        '        print(json.dumps(str(fetch(PUBLISHED[name], ["hub"]))))\n'
        '    except UserError as error:\n'
        '        print(json.dumps(str(error)))\n'
    )
    environment = dict(
        os.environ,
        HF_ENDPOINT=hub.url,
        HF_HOME=str(tmp_path / 'home'),
        GHOST_DET_RUNTIME='1',  # without mmdet, whose import takes its time
        PYTHONPATH=str(ROOT),
    )

    def run(*names: str, **more: str) -> list[str]:
        command = [sys.executable, '-c', script, *names]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**environment, **more}, check=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    (path,) = run(entry.name)
    assert Path(path).read_bytes() == HUBS and Path(path).is_relative_to(tmp_path / 'home')
    assert [path for path in hub.asked if path.startswith('/timm/')] == [
        f'/{entry.hub}/resolve/{entry.revision}/model.safetensors'
    ]
    hub.asked.clear()
    cached, missing = run(entry.name, 'ghostnet_100', HF_HUB_OFFLINE='1')
    assert cached == path
    assert f'{hub.url}/timm/ghostnet_100.in1k' in missing and 'offline' in missing.lower()
    assert f'as {by_hand(PUBLISHED["ghostnet_100"])}, or ' in missing
    assert hub.asked == []


def test_offline_no_url_is_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    url = hub.serve('/a.pth', UPSTREAMS)
    blob = hashlib.sha1(b'blob %d\0' % len(UPSTREAMS) + UPSTREAMS).hexdigest()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(UserError, match=f'{url}: not downloaded, as HF_HUB_OFFLINE is set$'):
        fetch_url(url, blob)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    path = fetch_url(url, blob)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert fetch_url(url, blob) == path
    path.write_bytes(b'x')
    with pytest.raises(UserError, match=f'the copy here is damaged: {path}'):
        fetch_url(url, blob)
    assert len(hub.asked) == 1


def test_a_url_is_downloaded_once(hub: Hub) -> None:
    url = hub.serve('/a/weights.pth', UPSTREAMS)
    path = locate(url)
    assert path.read_bytes() == UPSTREAMS and locate(url) == path
    assert hub.asked == ['/a/weights.pth'] and downloads() == [path]


def test_a_redirect_is_followed(hub: Hub) -> None:
    hub.serve('/stored here', UPSTREAMS)
    url = hub.serve('/raw/weights.pth', b'', '/stored%20here')
    assert fetch_url(url).read_bytes() == UPSTREAMS
    assert hub.asked == ['/raw/weights.pth', '/stored here']


@pytest.mark.parametrize(
    ('content', 'fault', 'message'),
    [
        (b'<!DOCTYPE html><title>Sign in</title>', None, 'a web page, not weights'),
        (b'\n<!-- proxy -->\n<HTML>', None, 'a web page, not weights'),
        (b'{"error": "quota"}', None, r'not weights; it begins with b\'{"error": "quota"}'),
        (b'version https://git-lfs.github.com/spec/v1\noid', None, 'a pointer of Git LFS'),
        (b'', None, 'empty'),
        (HUBS, 'close', 'damaged: .*incomplete metadata'),
        (UPSTREAMS, 'close', 'damaged: it ends too early'),
        (UPSTREAMS, 403, '403 Forbidden.*/weights.pth.$'),
        (UPSTREAMS, 'cut', 'closed connection'),
    ],
)
def test_of_what_is_no_complete_file_nothing_is_kept(
    hub: Hub, content: bytes, fault: str | int | None, message: str
) -> None:
    url = hub.serve('/weights.pth', content, fault)
    with pytest.raises(UserError, match=f'^{re.escape(url)}.*: .*{message}'):
        fetch_url(url)
    assert downloads() == []
    hub.serve('/weights.pth', UPSTREAMS)
    assert fetch_url(url).read_bytes() == UPSTREAMS


def test_of_other_content_than_the_known_nothing_is_kept(hub: Hub) -> None:
    url = hub.serve('/weights.pth', UPSTREAMS, 'flip', None)
    right, wrong = (
        hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
        for content in (UPSTREAMS, UPSTREAMS[:-1] + b'\1')
    )
    assert UPSTREAMS[-1] == 0
    with pytest.raises(UserError, match=f'{url}: wrong content: expected the git hash {right}, got {wrong}'):
        fetch_url(url, right)
    assert downloads() == []
    path = fetch_url(url, right)
    path.write_bytes(UPSTREAMS[:-5])
    assert fetch_url(url, right).read_bytes() == UPSTREAMS


@pytest.mark.parametrize(
    'path',
    [
        '/a/weights.pth', '/b/weights.pth', '/a/weights.pth?raw=true', '/', '', '/größe.pth',
        '/%2e%2e%2f%2e%2e%2f%2e%2e%2fescaped', '/..%5C..%5Cescaped', '/nul%00', '/' + 'ü' * 300,
    ],
)  # fmt: skip
def test_every_url_has_a_file_of_its_own_in_one_folder(hub: Hub, path: str, tmp_path: Path) -> None:
    other = fetch_url(hub.serve('/weights.pth', HUBS))
    got = fetch_url(hub.serve(path, UPSTREAMS))
    assert got != other and got.parent == other.parent == tmp_path / 'torch/hub/checkpoints'
    assert got.read_bytes() == UPSTREAMS and other.read_bytes() == HUBS
    assert len(downloads()) == 2


@pytest.mark.parametrize(
    'url', ['http://[', 'http://', 'https://:0/a', 'http://127.0.0.1:99999/a', 'http://\ud800']
)
def test_an_address_that_is_none_is_named(hub: Hub, url: str) -> None:
    with pytest.raises(UserError, match=f'^{re.escape(url)} '):
        locate(url)
    assert downloads() == []


def test_a_place_that_cannot_be_written_is_named(
    hub: Hub, weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / 'file').touch()  # root may write to read-only folders, but nobody below a file
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    ask(monkeypatch, hub.url, tmp_path / 'file')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'file/hf'))
    hub.publish(weights, HUBS)
    hub.serve('/raw/weights.pth', UPSTREAMS)
    with pytest.raises(UserError) as error:
        fetch(weights)
    _, first, second, _ = str(error.value).splitlines()
    assert f'(to {tmp_path}/file/hf)' in first and 'Not a directory' in first
    assert f'(to {tmp_path}/file/hub/checkpoints)' in second and 'Not a directory' in second


def in_processes(count: int, call: Callable[[], object]) -> list[multiprocessing.process.BaseProcess]:
    def work() -> None:
        try:
            call()
        except BaseException:
            os._exit(1)
        os._exit(0)

    processes = [multiprocessing.get_context('fork').Process(target=work) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        Event().wait(0.01)  # time.sleep is out of order
    raise TimeoutError


@pytest.mark.parametrize(('source', 'requests'), [('hub', 1), ('upstream', 3)])
def test_processes_at_once_all_get_the_file(hub: Hub, weights: Weights, source: str, requests: int) -> None:
    content = {'hub': HUBS, 'upstream': UPSTREAMS}[source]
    hub.publish(weights, HUBS, 'hold')
    hub.serve('/raw/weights.pth', UPSTREAMS, 'hold')

    def call() -> None:
        assert fetch(weights, [source]).read_bytes() == content

    processes = in_processes(3, call)
    wait_for(lambda: len(hub.asked) == requests)
    hub.go.set()
    for process in processes:
        process.join(10)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert fetch(weights, [source]).read_bytes() == content and len(hub.asked) == requests


def test_threads_at_once_all_get_the_file(hub: Hub) -> None:
    url = hub.serve('/weights.pth', UPSTREAMS, 'hold')
    with ThreadPoolExecutor(3) as pool:
        paths = [pool.submit(fetch_url, url) for _ in range(3)]
        wait_for(lambda: len(hub.asked) == 3)
        hub.go.set()
        assert {path.result().read_bytes() for path in paths} == {UPSTREAMS}
    assert downloads() == [paths[0].result()]


@pytest.mark.parametrize('source', ['hub', 'upstream'])
def test_after_a_killed_download_the_next_one_gets_the_file(hub: Hub, weights: Weights, source: str) -> None:
    content = {'hub': HUBS, 'upstream': UPSTREAMS}[source]
    hub.publish(weights, HUBS, 'hold', None)
    hub.serve('/raw/weights.pth', UPSTREAMS, 'hold', None)
    (process,) = in_processes(1, lambda: fetch(weights, [source]))
    wait_for(lambda: len(hub.asked) == 1)
    process.kill()
    process.join(10)
    hub.go.set()
    assert fetch(weights, [source]).read_bytes() == content and len(hub.asked) == 2

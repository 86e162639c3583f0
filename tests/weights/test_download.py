"""Downloads from a hub on loopback that fails in many ways."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save

from ghost_det.errors import UserError
from ghost_det.utils.system import RUNTIME
from ghost_det.weights import download
from ghost_det.weights.catalog import PUBLISHED, Variant, find_published
from ghost_det.weights.download import fetch, fetch_url, git_blob_of, locate
from tests.conftest import ROOT

from .hub import Hub

GONE = 'http://127.0.0.1:9'  # nobody listens
FILE = io.BytesIO()
torch.save({'a': torch.rand(2000)}, FILE)
UPSTREAMS = FILE.getvalue()
BLOB = hashlib.sha1(b'blob %d\0' % len(UPSTREAMS) + UPSTREAMS).hexdigest()
HUBS = save({'a': torch.rand(1000)})
SHA256 = hashlib.sha256(HUBS).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running hub that this process asks through the true client, with all caches in a folder."""
    with Hub() as server:
        Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
        ask(monkeypatch, server.url, tmp_path)
        monkeypatch.setattr('time.sleep', lambda seconds: None)  # before the client's new tries
        yield server
        server.shutdown()


def ask(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    client = partial(hf_hub_download, endpoint=endpoint, cache_dir=cache / 'hf')
    monkeypatch.setattr('ghost_det.weights.download.hf_hub_download', client)


@pytest.fixture(params=['known', 'unknown'])
def weights(request: pytest.FixtureRequest, hub: Hub) -> Variant:
    """An entry with and without commit and hashes."""
    entry = replace(PUBLISHED['ghostnetv2_130'], url=f'{hub.url}/raw/weights.pth')
    if request.param == 'unknown':
        return entry
    return replace(entry, revision='a' * 40, sha256=SHA256, git_blob=BLOB)


def downloads() -> list[Path]:
    return sorted(Path(os.environ['TORCH_HOME']).glob('hub/checkpoints/*'))


def test_names_files_and_addresses_are_told_apart(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ('ghostnet_100', 'ghost://ghostnet_1x', 'ghostnet_1x'):
        assert find_published(name) is PUBLISHED['ghostnet_100']
    monkeypatch.chdir(tmp_path)
    Path('ghostnet_100').write_bytes(b'hello\n')
    assert git_blob_of(Path('ghostnet_100')) == 'ce013625030ba8dba906f756967f9e9ca394464a'  # git hash-object
    assert find_published('ghostnet_100') is None and locate('ghostnet_100') == Path('ghostnet_100')
    paths = ('ghost:/ghostnet_100', 'file:///x.pth', 's3://bucket/x.pth', 'ghost://ghostnet_200')
    for wrong in (*paths, 'http://[', 'http://', 'http://127.0.0.1:99999/a', 'http://\ud800'):
        with pytest.raises(UserError, match=f'^{re.escape(wrong)}.* '):
            locate(wrong)


def test_damaged_content_is_refused_until_deleted_and_the_file_downloaded_once(
    hub: Hub, weights: Variant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.publish(weights, HUBS)
    fetch(weights).write_bytes(HUBS[:-1])
    with pytest.raises(UserError, match=f'expected the SHA-256 {SHA256}, got .*; delete it') as error:
        fetch(weights, ['hub'])
    cached = re.search(r': (/\S+): expected', str(error.value))
    assert cached is not None
    Path(cached[1]).unlink()
    path = fetch(weights)
    ask(monkeypatch, GONE, tmp_path)
    assert fetch(weights) == path and path.read_bytes() == HUBS
    assert hub.asked == [f'/{weights.hub}/resolve/{weights.revision}/model.safetensors'] * 2


@pytest.mark.parametrize(('source', 'content'), [('hub', HUBS), ('upstream', UPSTREAMS)])
def test_a_cut_download_is_resumed(
    hub: Hub, weights: Variant, source: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 512)  # 10 MiB
    hub.publish(weights, HUBS)
    hub.serve('/raw/weights.pth', UPSTREAMS)
    hub.cuts = 1
    assert fetch(weights, [source]).read_bytes() == content
    first, second = hub.asked
    assert second == f'{first} from {len(content) // 2 // 512 * 512}'


def test_if_the_hub_fails_the_authors_file_is_used(hub: Hub, weights: Variant) -> None:
    hub.serve('/raw/weights.pth', UPSTREAMS)
    path = fetch(weights)
    assert path.read_bytes() == UPSTREAMS and [path] == downloads()


def test_if_both_fail_one_message_has_the_reasons_and_the_options(
    hub: Hub, weights: Variant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask(monkeypatch, GONE, tmp_path)
    with pytest.raises(UserError) as error:
        fetch(weights)
    head, first, second, options = str(error.value).splitlines()
    assert head.startswith(f'ghost://{weights.name}: ')
    assert weights.hub in first and 'refused' in first and weights.url in second and '404' in second
    page = f'https://huggingface.co/{weights.hub}/resolve/{weights.revision}/model.safetensors'
    assert page in options and weights.url in options and '--pretrained FILE' in options
    assert downloads() == []
    (tmp_path / 'file').touch()  # root may write to read-only folders, but nobody below a file
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    hub.serve('/raw/weights.pth', UPSTREAMS)
    with pytest.raises(UserError, match=rf'\(to {tmp_path}/file/hub/checkpoints\): .*Not a directory'):
        fetch(weights, ['upstream'])


def test_a_url_is_downloaded_once_and_offline_not_at_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    url = hub.serve('/a/weights.pth', UPSTREAMS)
    path = fetch_url(url, BLOB)
    path.write_bytes(UPSTREAMS[:-5])  # which is found by its hash
    assert fetch_url(url, BLOB) == path and path.read_bytes() == UPSTREAMS and len(hub.asked) == 2
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert locate(url) == fetch_url(url, BLOB) == path
    path.write_bytes(b'x')
    with pytest.raises(UserError, match=f'{url}: not downloaded, as HF_HUB_OFFLINE is set$'):
        fetch_url(url, BLOB)
    assert len(hub.asked) == 2 and downloads() == [path]


@pytest.mark.parametrize(
    ('content', 'status', 'message'),
    [
        (b'<!DOCTYPE html><title>Sign in</title>', 200, 'web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid', 200, 'Git LFS'),
        (b'', 200, 'an empty file'),
        (HUBS[:-1], 200, 'damaged: .*incomplete metadata'),
        (UPSTREAMS[:-50], 200, 'damaged: it ends too early'),
        (UPSTREAMS, 403, '403 Forbidden.*/weights.pth.$'),
        (UPSTREAMS[:-1] + b'x', 200, 'expected the git hash'),
        (UPSTREAMS, 0, 'closed connection'),
    ],
)
def test_nothing_incomplete_or_wrong_is_kept(hub: Hub, content: bytes, status: int, message: str) -> None:
    url = hub.serve('/weights.pth', content, status or 200)
    hub.cuts = 0 if status else 99
    with pytest.raises(UserError, match=f'^{re.escape(url)}.*: .*{message}'):
        fetch_url(url, BLOB)
    assert downloads() == []


@pytest.mark.parametrize('path', ['/b/weights.pth', '/%2e%2e%2fescaped', '/..%5Cescaped', '/' + 'ü' * 300])
def test_every_url_has_a_file_of_its_own_in_one_folder(hub: Hub, path: str, tmp_path: Path) -> None:
    other = fetch_url(hub.serve('/weights.pth', HUBS))
    got = fetch_url(hub.serve(path, UPSTREAMS))
    assert got != other and got.parent == other.parent == tmp_path / 'torch/hub/checkpoints'
    assert got.read_bytes() == UPSTREAMS and other.read_bytes() == HUBS


def test_files_of_torchvision_keep_their_names_and_are_verified(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = download._TORCHVISION.pattern.replace(r'https://download\.pytorch\.org', hub.url)
    monkeypatch.setattr(download, '_TORCHVISION', re.compile(published))
    name = f'resnet18-{hashlib.sha256(UPSTREAMS).hexdigest()[:8]}.pth'
    url = hub.serve(f'/models/{name}', HUBS)
    with pytest.raises(UserError, match='wrong content: its SHA-256 is '):
        fetch_url(url)
    assert downloads() == []
    hub.serve(f'/models/{name}', UPSTREAMS)
    assert fetch_url(url) == tmp_path / 'torch/hub/checkpoints' / name


def test_several_processes_get_the_file(hub: Hub) -> None:
    url = hub.serve('/weights.pth', UPSTREAMS)
    code = f'from ghost_det.weights.download import fetch_url; print(fetch_url({url!r}))'
    words = [sys.executable, '-c', code]
    env = {**os.environ, RUNTIME: '1', 'PYTHONPATH': str(ROOT)}
    started = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate(timeout=120)[0] for process in started}) == 1
    assert [path.read_bytes() for path in downloads()] == [UPSTREAMS]


@pytest.mark.parametrize('change', [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_installation_is_reported(
    change: Callable[[Path], Any], shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(shipped, tmp_path / 'copy')
    monkeypatch.setattr('ghost_det.weights.catalog.DATA', copy)
    assert locate('ghostnet_100.tin') == copy / 'ghostnet_100.tin.safetensors'
    change(copy / 'ghostnet_100.tin.safetensors')
    with pytest.raises(UserError, match='ghostnet_100.tin.*expected the SHA-256 .*install ghost-det again'):
        locate('ghost://ghostnet_100.tin')

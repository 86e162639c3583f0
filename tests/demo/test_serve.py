from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..deploy.test_runtime import bright
from .served import Served, free_port, serving, start

gradio_client = pytest.importorskip('gradio_client')
httpx = pytest.importorskip('httpx')


@pytest.fixture(scope='module')
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp('page')) as page:
        yield page


@pytest.fixture(scope='module')
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('images') / 'x.png'
    Image.fromarray(bright()).save(path)
    return path


def client(served: Served) -> Any:
    return gradio_client.Client(served.url, verbose=False, analytics_enabled=False, download_files=False)


def found(answer: Any) -> int:
    return len(json.loads(answer[-1])['results'])


def test_boxes_by_model_and_score(served: Served, image: Path) -> None:
    user = client(served)
    upload = gradio_client.handle_file(str(image))
    assert found(user.predict(upload, 'a.onnx', 0.1, api_name='/run')) == 2
    assert found(user.predict(0.5, api_name='/show')) == 1
    assert found(user.predict(0.1, api_name='/show')) == 2
    answer = user.predict(upload, 'b.xml', 0.5, api_name='/run')
    assert '<td>a.onnx</td>' in answer[-2] and '<td>b.xml</td>' in answer[-2]
    assert client(served).predict(0.1, api_name='/show')[-1] == ''  # another visitor has seen nothing


def test_a_bad_file_is_a_message(served: Served, tmp_path: Path) -> None:
    (tmp_path / 'text.jpg').write_text('no image')
    upload = gradio_client.handle_file(str(tmp_path / 'text.jpg'))
    message = client(served).predict(upload, 'a.onnx', 0.5, api_name='/run')[1]
    assert 'text.jpg: no image that can be read' in message and 'role="alert"' in message


def test_visitors_at_once_have_their_own(served: Served, tmp_path: Path) -> None:
    def visit(number: int) -> list[float]:
        path = tmp_path / f'{number}.png'
        Image.fromarray(bright(4 * number)).save(path)
        answer = client(served).predict(gradio_client.handle_file(str(path)), 'a.onnx', 0.5, api_name='/run')
        return json.loads(answer[-1])['results'][0]['bbox']

    with ThreadPoolExecutor(6) as pool:
        lefts = [bbox[0] for bbox in pool.map(visit, range(6))]
    assert lefts == pytest.approx([8 * number + 4 for number in range(6)], abs=0.1)


def test_files_outside_cannot_be_had(served: Served, image: Path) -> None:
    outside = [str(image), '/etc/passwd', str(served.folder / 'a.onnx')]
    (folder,) = (served.folder / 'temporary').iterdir()
    outside += [f'{folder}/../../a.onnx', 'http://127.0.0.1:9/']
    for path in outside:
        for prefix in ('/gradio_api/file=', '/file=', '/gradio_api/proxy='):
            assert httpx.get(f'{served.url}{prefix}{path}').status_code in (403, 404), path
        for meta in ({'meta': {'_type': 'gradio.FileData'}}, {}):
            body = {'data': [{'path': path, 'url': path, **meta}, 'a.onnx', 0.5, None], 'fn_index': 0}
            text = _call(served, {**body, 'session_hash': f'x{abs(hash((path, str(meta))))}'})
            assert 'no upload: choose the image again' in text or '"success":false' in text, path
            assert 'results' not in text, path
    kept = [path.read_bytes() for path in folder.rglob('*') if path.is_file()]
    assert Path('/etc/passwd').read_bytes() not in kept


def _call(served: Served, body: dict[str, Any]) -> str:
    httpx.post(f'{served.url}/gradio_api/queue/join', json=body).raise_for_status()
    return httpx.get(
        f'{served.url}/gradio_api/queue/data', params={'session_hash': body['session_hash']}, timeout=20
    ).text


def test_what_the_page_does_not_need_is_not_served(served: Served) -> None:
    page = httpx.get(served.url)
    assert "default-src 'self'" in page.headers['content-security-policy']
    for path in ('gradio_api/process_recording', 'monitoring', 'gradio_api/runs', 'docs', 'openapi.json'):
        assert httpx.post(f'{served.url}/{path}').status_code == 404
        assert httpx.get(f'{served.url}/{path}').status_code == 404


def test_large_uploads_are_refused(served: Served) -> None:
    upload = {'files': ('x.jpg', bytes(21 * 2**20))}
    assert httpx.post(f'{served.url}/gradio_api/upload', files=upload).status_code == 413
    left = [path for path in (served.folder / 'temporary').rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in left) < 2**20


@pytest.mark.parametrize('stop', [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_on_the_disk(stop: signal.Signals, image: Path, tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        client(served).predict(gradio_client.handle_file(str(image)), 'a.onnx', 0.5, api_name='/run')
        assert any(path.name == 'x.png' for path in (tmp_path / 'temporary').rglob('*'))
        served.process.send_signal(stop)
        _, errors = served.process.communicate(timeout=20)
    assert 'Traceback' not in errors
    assert list((tmp_path / 'temporary').iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'a.onnx',
        'b.bin',
        'b.xml',
        'block',
        'temporary',
    ]


def test_mistakes_are_told_in_one_message(tmp_path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        taken = listener.getsockname()[1]
        for words, message in (
            (['no.onnx', '--port', taken], f'--host 127.0.0.1 --port {taken}: cannot listen there'),
            (['no.onnx', '--port', free_port()], 'no.onnx: a file is wanted, found nothing'),
            (['c.py', 'c.pth', '--port', free_port()], 'needs MMDetection'),
            (['no.onnx', '--host', 'no such host'], 'cannot listen there'),
        ):
            process = start(tmp_path, *words)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 2
            assert message in errors and 'Traceback' not in errors

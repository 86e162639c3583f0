from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from ghost_det.demo.server import allowed
from tests.deploy.test_detector import bright

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


def test_nothing_is_read_but_uploads(served: Served, image: Path) -> None:
    asked: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with HTTPServer(('127.0.0.1', 0), Site) as site:
        Thread(target=site.serve_forever, daemon=True).start()
        (folder,) = (served.folder / 'temporary').iterdir()
        outside = [str(image), '/etc/passwd', str(served.folder / 'a.onnx'), f'{folder}/../../a.onnx']
        outside += [f'http://127.0.0.1:{site.server_port}/x.png', 'https://example.com/x.png']
        for path in outside:
            for prefix in ('/gradio_api/file=', '/file=', '/gradio_api/proxy='):
                assert httpx.get(f'{served.url}{prefix}{path}').status_code in (403, 404), path
            for key, meta in product(('path', 'url'), ({'meta': {'_type': 'gradio.FileData'}}, {})):
                answer = call(served, [{key: path, **meta}, 'a.onnx', 0.5, None])
                assert answer.status_code == 400, path
                assert answer.json()['detail'] == 'no upload: choose the image again'
        site.shutdown()
    assert asked == []
    kept = [path.read_bytes() for path in folder.rglob('*') if path.is_file()]
    assert Path('/etc/passwd').read_bytes() not in kept


def test_gradio_gets_nothing_of_a_call_but_what_the_page_sends(served: Served, image: Path) -> None:
    with image.open('rb') as file:
        (path,) = httpx.post(f'{served.url}/gradio_api/upload', files={'files': file}).json()
    address = 'https://example.com/x.png'
    elsewhere = {'url': address, 'is_stream': True, 'meta': {'_type': 'gradio.FileData'}, 'more': [address]}
    body = {'event_data': elsewhere, 'batched': True, 'simple_format': True, 'session_hash': 'whole'}
    assert call(served, [{'path': path, **elsewhere}, 'a.onnx', 0.5, elsewhere], **body).status_code == 200
    said = httpx.get(f'{served.url}/gradio_api/queue/data?session_hash=whole', timeout=20).text
    assert '1</b> of 2 boxes' in said and 'example.com' not in said


def call(served: Served, data: Any, **more: Any) -> httpx.Response:
    body = {'data': data, 'fn_index': 0, 'session_hash': 'x', **more}
    return httpx.post(f'{served.url}/gradio_api/queue/join', json=body)


def test_malformed_calls_are_refused_in_silence(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        address = f'{served.url}/gradio_api/queue/join'
        bodies = (b'', b'{', b'[]', b'\xff', b'[' * 60_000, b'x' * 70_000, b'{"fn_index": []}')
        for body in bodies:
            refused = httpx.post(address, content=body, headers={'content-type': 'application/json'})
            assert refused.status_code == 400 and refused.json()['detail'], body[:20]
        for data in (
            'x',
            {},
            [],
            [None, 'a.onnx', 0.5],
            [None, 'a.onnx', 0.5, None, None],
            [None, 'no such model', 0.5, None],
            [None, ['a.onnx'], 0.5, None],
            [None, 'a.onnx', 'half', None],
            [None, 'a.onnx', 2, None],
            ['x.png', 'a.onnx', 0.5, None],
            [{'path': 1}, 'a.onnx', 0.5, None],
            [{'path': '\0'}, 'a.onnx', 0.5, None],
        ):
            assert call(served, data).status_code == 400, data
        for more in ({'fn_index': 9}, {'fn_index': 'run'}, {'session_hash': None}, {'session_hash': [1]}):
            assert call(served, [None, 'a.onnx', 0.5, None], **more).status_code == 400, more
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f'{served.url}/gradio_api/queue/data?session_hash=nobody')
        served.process.terminate()
        _, errors = served.process.communicate(timeout=20)
    assert 'Traceback' not in errors and len(errors.splitlines()) < 3, errors


@pytest.mark.parametrize(
    ('host', 'answered', 'refused'),
    [
        (
            '127.0.0.1',
            ('127.0.0.1', 'LOCALHOST:80', '[::1]:80'),
            ('example.com', 'localhost.example.com', '[::1'),
        ),
        ('0.0.0.0', ('127.0.0.1', 'example.com'), ()),
    ],
)
def test_the_page_answers_under_its_own_names(
    host: str, answered: tuple[str, ...], refused: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(tmp_path, host=host) as served:
        assert ('under any name' in served.said) == (host == '0.0.0.0')
        for names, status in ((answered, 200), (refused, 400)):
            for name in names:
                for path in ('', 'config'):
                    answer = httpx.get(f'{served.url}/{path}', headers={'host': name})
                    assert answer.status_code == status, name


def test_an_address_of_version_6_is_printed_as_browsers_take_it(tmp_path: Path) -> None:
    try:
        socket.create_server(('::1', 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip('no IPv6 here')
    with serving(tmp_path, host='::1') as served:
        assert re.match(r'http://\[::1\]:\d+: a\.onnx, b\.xml; ', served.said)
        assert httpx.get(served.url).status_code == 200
        assert httpx.get(served.url, headers={'host': 'example.com'}).status_code == 400


def test_names_that_are_answered() -> None:
    assert allowed('192.0.2.1', '192.0.2.1') == {'192.0.2.1'}
    assert allowed('Box.lan', '192.0.2.1') == {'box.lan', '192.0.2.1'}
    assert allowed('127.0.0.2', '127.0.0.2') == {'127.0.0.2', 'localhost', '127.0.0.1', '::1'}
    assert allowed('::', '::') == allowed('0.0.0.0', '0.0.0.0') == frozenset()


def test_what_the_page_does_not_need_is_not_served(served: Served) -> None:
    page = httpx.get(served.url)
    assert "default-src 'self'" in page.headers['content-security-policy']
    for path in ('gradio_api/process_recording', 'monitoring', 'gradio_api/runs', 'docs', 'openapi.json'):
        assert httpx.post(f'{served.url}/{path}').status_code == 404
        assert httpx.get(f'{served.url}/{path}').status_code == 404


def post(served: Served, **headers: str) -> int:
    """Upload a file as a browser does; return the status."""
    names = {name.replace('_', '-'): value for name, value in headers.items()}
    sent = httpx.post(f'{served.url}/gradio_api/upload', files={'files': ('x.png', b'x')}, headers=names)
    assert sent.status_code in (200, 400) or len(sent.text.splitlines()) == 1
    return int(sent.status_code)


def test_other_sites_can_send_nothing(served: Served) -> None:
    port = urlsplit(served.url).port
    join = f'{served.url}/gradio_api/queue/join'
    for origin in ('http://evil.com', f'http://evil.com:{port}', 'http://127.0.0.1', 'null', 'http://x:y'):
        assert post(served, origin=origin) == 403, origin
        assert httpx.post(join, headers={'origin': origin}).status_code == 403
        assert httpx.get(served.url, headers={'origin': origin}).status_code == 200  # a link is no harm
    for site in ('cross-site', 'same-site'):
        assert (
            post(served, sec_fetch_site=site) == post(served, sec_fetch_site=site, origin=served.url) == 403
        )
    for origin in (served.url, f'https://127.0.0.1:{port}'):
        assert post(served, origin=origin) == post(served, origin=origin, sec_fetch_site='none') == 200
    # behind proxies: of https, at the usual ports, and one that passes a Host of its own
    for origin, host in (('http://localhost', 'localhost:80'), ('https://localhost:443', 'LOCALHOST')):
        assert post(served, origin=origin, host=host) == 200, origin
    assert post(served, origin='https://localhost', host='localhost:80') == 403
    assert post(served, origin='https://example.com', host='localhost', sec_fetch_site='same-origin') == 200


def stored(served: Served) -> int:
    paths = (served.folder / 'temporary').rglob('*')
    return sum(path.stat().st_size for path in paths if path.is_file())


@pytest.mark.parametrize('sizes', [[21], [7, 7, 7]])
@pytest.mark.parametrize('chunked', [False, True])
def test_large_uploads_are_refused(sizes: list[int], chunked: bool, served: Served) -> None:
    before = stored(served)
    files = [('files', (f'{number}.jpg', bytes(size * 2**20))) for number, size in enumerate(sizes)]
    request = httpx.Request('POST', f'{served.url}/gradio_api/upload', files=files)
    body = request.read()
    parts = (body[start : start + 2**16] for start in range(0, len(body), 2**16))
    headers = {'content-type': request.headers['content-type']}
    answer = httpx.post(request.url, content=parts if chunked else body, headers=headers)
    assert answer.status_code == 413 and len(answer.text.splitlines()) == 1
    assert stored(served) == before


def test_uploads_that_are_cut_short_leave_nothing(served: Served) -> None:
    before = stored(served)
    request = httpx.Request('POST', f'{served.url}/gradio_api/upload', files={'files': bytes(2**20)})
    body = request.read()
    head = '\r\n'.join(
        ['POST /gradio_api/upload HTTP/1.1', *(f'{name}: {value}' for name, value in request.headers.items())]
    )
    with socket.create_connection(('127.0.0.1', urlsplit(served.url).port)) as connection:
        connection.sendall(f'{head}\r\n\r\n'.encode() + body[: 2**19])
        within(lambda: stored(served) > before)
    within(lambda: stored(served) == before)


def within(reached: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_uploads_wait_until_there_is_room(served: Served) -> None:
    (folder,) = (served.folder / 'temporary').iterdir()
    full = folder / 'full'
    with full.open('wb') as file:
        file.truncate(501 * 2**20)
    assert post(served) == 507
    os.utime(full, (0, 0))  # gradio forgets what it did not ask for; the page does not
    assert post(served) == 200 and not full.exists()


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
            (['no.onnx', '--port', free_port()], 'no.onnx: expected a file of ghost-det export, got nothing'),
            (['c.py', 'c.pth', '--port', free_port()], 'needs MMDetection'),
            (['no.onnx', '--host', 'no such host'], 'cannot listen there'),
        ):
            process = start(tmp_path, *words)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 2
            assert message in errors and 'Traceback' not in errors

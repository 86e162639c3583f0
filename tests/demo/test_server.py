from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ghost_det.demo.server import find_hosts
from ghost_det.errors import UserError
from tests.deploy.test_detector import bright

from .served import Served, free_port, serving, start

gradio_client = pytest.importorskip('gradio_client')
httpx = pytest.importorskip('httpx')


def client(served: Served) -> Any:
    return gradio_client.Client(served.url, verbose=False, analytics_enabled=False, download_files=False)


def test_the_page_reads_only_uploads_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / 'x.png'
    Image.fromarray(bright()).save(path)
    with serving(tmp_path) as served:
        assert httpx.get(f'{served.url}/config', headers={'host': 'LOCALHOST:80'}).status_code == 200
        for refused in ('example.com', 'localhost.example.com', '[::1'):
            assert httpx.get(f'{served.url}/config', headers={'host': refused}).status_code == 400

        user = client(served)
        answer = user.predict(gradio_client.handle_file(str(path)), 'a.onnx', 0.1, api_name='/run')
        assert '<b>2</b> of 2 boxes' in answer[-2]
        assert '<b>1</b> of 2 boxes' in user.predict(0.5, api_name='/filter_boxes')[-2]
        other = client(served)
        assert other.predict(0.1, api_name='/filter_boxes')[-1] == ''  # nothing of another visitor
        message = other.predict({'path': str(path)}, 'a.onnx', 0.5, api_name='/run')[1]
        assert 'not an upload' in message and 'role="alert"' in message

        large = {'files': ('x.jpg', bytes(21 * 2**20))}
        assert httpx.post(f'{served.url}/gradio_api/upload', files=large).status_code == 413
        for outside in (path, '/etc/passwd'):
            assert httpx.get(f'{served.url}/gradio_api/file={outside}').status_code == 403

        assert any(kept.name == 'x.png' for kept in served.temporary.rglob('*'))
        require_stop(served, signal.SIGTERM, 143)


def require_stop(served: Served, number: signal.Signals, code: int) -> None:
    served.process.send_signal(number)
    _, errors = served.process.communicate(timeout=20)
    assert served.process.returncode == code
    assert 'Traceback' not in errors and list(served.temporary.iterdir()) == []


def test_an_ipv6_address(tmp_path: Path) -> None:
    try:
        socket.create_server(('::1', 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip('no IPv6 here')
    with serving(tmp_path, host='::1') as served:
        assert httpx.get(served.url).status_code == 200
        assert httpx.get(served.url, headers={'host': 'example.com'}).status_code == 400
        require_stop(served, signal.SIGINT, 0)


def test_host_names_that_are_answered() -> None:
    local = {'localhost', '127.0.0.1', '[::1]'}
    assert set(find_hosts('127.0.0.1', 0)) == set(find_hosts('localhost', 0)) == local
    assert find_hosts('0.0.0.0', 0) == ['*']
    with socket.create_server(('127.0.0.1', 0)) as listener, pytest.raises(UserError, match='--port'):
        find_hosts('127.0.0.1', listener.getsockname()[1])


def test_torch_models_need_mmdetection(tmp_path: Path) -> None:
    process = start(tmp_path, 'c.py', 'c.pth', '--port', free_port())
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and 'needs MMDetection' in errors and 'Traceback' not in errors

import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ghost_det.deploy import Metadata
from tests.conftest import Cli
from tests.deploy.test_detector import bright
from tests.export.exported import METADATA, save

from .served import Served, require_stop, serving

gradio_client = pytest.importorskip('gradio_client')
httpx = pytest.importorskip('httpx')


def has_ipv6() -> bool:
    try:
        socket.create_server(('::1', 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def client(served: Served) -> Any:
    return gradio_client.Client(served.url, verbose=False, analytics_enabled=False, download_files=False)


def test_the_page_reads_only_uploads_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / 'x.png'
    Image.fromarray(bright()).save(path)
    host = '::1' if has_ipv6() else '127.0.0.1'
    with serving(tmp_path, host=host, GHOST_DET_RUNTIME='1') as served:
        assert httpx.get(f'{served.url}/config', headers={'host': 'LOCALHOST:80'}).status_code == 200
        for refused in ('example.com', 'localhost.example.com', '[::1'):
            assert httpx.get(f'{served.url}/config', headers={'host': refused}).status_code == 400

        user = client(served)
        answer = user.predict(gradio_client.handle_file(str(path)), 'a.onnx', 0.1, api_name='/run')
        assert '<b>2</b> of 2 boxes' in answer[-2]
        assert '<b>1</b> of 2 boxes' in user.predict(0.5, api_name='/filter_boxes')[-2]
        other = client(served)
        assert other.predict(0.1, api_name='/filter_boxes')[-1] is None  # nothing of another visitor
        answer = other.predict({'path': str(path)}, 'a.onnx', 0.5, api_name='/run')
        assert answer[-2:] == ('', None)  # not an upload

        large = {'files': ('x.jpg', bytes(21 * 2**20))}
        assert httpx.post(f'{served.url}/gradio_api/upload', files=large).status_code == 413
        for outside in (path, '/etc/passwd'):
            assert httpx.get(f'{served.url}/gradio_api/file={outside}').status_code == 403

        assert 'libtorch' not in Path(f'/proc/{served.process.pid}/maps').read_text()
        assert any(kept.name == 'x.png' for kept in served.temporary.rglob('*'))
        require_stop(served, signal.SIGTERM, 143)


def test_what_cannot_be_served_is_a_user_error(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / 'a.onnx', Metadata(**METADATA))
    with socket.create_server(('127.0.0.1', 0)) as listener:
        for words, part in (
            (['c.py', 'c.pth'], 'needs torch'),
            (['a.onnx', '--port', listener.getsockname()[1]], '--port'),
            (['a.onnx', 'c.pth'], 'c.pth'),
        ):
            done = cli('demo', *map(str, words), cwd=tmp_path, GHOST_DET_RUNTIME='1')
            assert done.returncode == 2 and part in done.stderr and 'Traceback' not in done.stderr

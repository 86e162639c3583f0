from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ghost_det.deploy import Detector, Metadata, bulk
from ghost_det.deploy.bulk import Counts, detect_many
from ghost_det.errors import UserError
from ghost_det.utils.images import read_image
from tests.conftest import ROOT
from tests.export.exported import METADATA, save

GOOD, BAD, SHARD = 38, ('cut.jpg', 'empty.png'), 4


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp('model') / 'bright.xml', Metadata(**METADATA)))


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that take a while to decode, with bright boxes in seven places."""
    folder = tmp_path_factory.mktemp('images')
    contents = []
    for place in range(7):
        image = np.full((2500 + place, 3000, 3), 60, np.uint8)
        image[300 * place :, 360 * place :] = 255
        contents.append(cv2.imencode('.jpg', image)[1].tobytes())
    for index in range(GOOD):
        path = folder / f'{index % 2}/{index:03d} %20?.jpg'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents[index % 7])
    (folder / BAD[0]).write_bytes(contents[0][:300])
    (folder / BAD[1]).touch()
    return folder


def workers_here() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.name().startswith('ray::detect_sha')]


def wait_for(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            if found := what():
                return found
        time.sleep(0.01)
    raise TimeoutError


def parts(out: Path) -> list[Path]:
    return sorted((out / 'parts').glob('part-*.parquet'))


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for part in parts(out) for row in pq.read_table(part).to_pylist()]


def check(out: Path, images: Path, model: str) -> None:
    found = rows(out)
    expected = sorted(path for path in images.rglob('*') if path.is_file())
    assert [row['path'] for row in found] == list(map(str, expected))
    detector = Detector(model, score_threshold=0.3)
    for row, path in zip(found, expected):
        if path.name in BAD:
            assert path.name in row['error'] and row['width'] is None and row['scores'] == []
            continue
        image = read_image(path)
        expected_boxes = detector(image)
        assert row['error'] is None and (row['height'], row['width']) == image.shape[:2]
        assert len(expected_boxes) == 1
        assert all(row[key] == getattr(expected_boxes, key).tolist() for key in ('labels', 'scores', 'boxes'))


@pytest.fixture
def cluster() -> Iterator[str]:
    ray.init('local', num_cpus=2, object_store_memory=2**27, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.slow
def test_killed_drivers_and_workers_lose_and_double_nothing(
    cluster: str, model: str, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    tool = [sys.executable, '-m', 'ghost_det_main', 'detect-many', model, str(images), '-o', str(out)]
    tool += ['--workers', '2', '--shard', str(SHARD), '--address', cluster]
    driver = subprocess.Popen(tool, cwd=ROOT)
    wait_for(lambda: parts(out))
    driver.kill()
    driver.wait()
    wait_for(lambda: not workers_here())
    done = {part: part.stat().st_mtime_ns for part in parts(out)}
    (out / 'parts/.partial-1-x').touch()  # as a kill while writing leaves it

    again = subprocess.Popen(tool, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    killed = wait_for(workers_here)
    assert not any('libtorch' in Path(f'/proc/{each.pid}/maps').read_text() for each in killed)
    killed[0].kill()
    assert len(parts(out)) < (GOOD + 2) // SHARD, 'all was done before the kill'
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 1 and f'{GOOD + 2} images, 2 failed; {GOOD} objects' in said
    assert all(name in said for name in BAD)
    check(out, images, model)
    assert {part: part.stat().st_mtime_ns for part in done} == done
    assert sorted((out / 'parts').iterdir()) == parts(out)


def test_parquet_in_and_what_could_not_be_read_again(
    model: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(todo: dict[int, list[str]], job: bulk.Job, _: Any) -> None:
        for shard, paths in todo.items():
            bulk.detect_shard(shard, paths, job)

    monkeypatch.setattr(bulk, '_run', run)  # in this process, without Ray
    monkeypatch.setattr(bulk, '_start_ray', lambda *_: None)
    late = tmp_path / 'late.jpg'
    names = [str(path) for path in sorted(images.rglob('*.jpg'))][:4]
    table = pa.table({'file': [*names, names[0], 'late.jpg', None, 'never.jpg'], 'other': range(8)})
    (tmp_path / 'list.parquet').mkdir()
    for start in (0, 4):
        pq.write_table(table.slice(start, 4), tmp_path / f'list.parquet/{start}.parquet')
    arguments: dict[str, Any] = dict(column='file', limit=5, shard=2, workers=1)
    source, out = str(tmp_path / 'list.parquet'), tmp_path / 'out'
    assert detect_many(model, source, str(out), **arguments) == Counts(5, 1, 4)
    assert [row['path'] for row in rows(out)] == [*names, str(late)]
    dates = [part.stat().st_mtime_ns for part in parts(out)]

    late.write_bytes(Path(names[0]).read_bytes())
    assert detect_many(model, source, str(out), **arguments, retry=True) == Counts(5, 0, 5)
    assert [part.stat().st_mtime_ns for part in parts(out)][:2] == dates[:2]
    assert rows(out)[4]['boxes'] == rows(out)[0]['boxes']

    tiles = tmp_path / 'tiles'
    assert detect_many(model, source, str(tiles), **arguments, tile=1500, overlap=0.1).failed == 0
    assert len(rows(tiles)[0]['boxes']) > 0 and rows(tiles)[0]['boxes'] != rows(out)[0]['boxes']

    parts(out)[0].write_bytes(b'PAR1 cut')
    with pytest.raises(UserError, match='part-00000000.parquet'):
        detect_many(model, source, str(out), **arguments)


def test_no_other_run_resumes_in_its_folder(
    model: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def run(todo: dict[int, list[str]], *_: Any) -> None:
        done.extend(todo)
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, '_run', run)
    monkeypatch.setattr(bulk, '_start_ray', lambda *_: None)
    out = str(tmp_path / 'out')
    with pytest.raises(KeyboardInterrupt):
        detect_many(model, str(images), out, workers=2, shard=7)
    assert done == list(range(-(-(GOOD + 2) // 7)))
    other = str(save(tmp_path / 'other.onnx', Metadata(**METADATA)))
    changes: dict[str, Any] = {
        'model': other,
        'source': str(images / '1'),
        'score': 0.5,
        'tile': 64,
        'shard': 8,
    }
    for name, value in changes.items():
        with pytest.raises(UserError, match='another run: '):
            detect_many(**{'model': model, 'source': str(images), 'out': out, name: value})
    with pytest.raises(KeyboardInterrupt):  # the same one resumes, with the shards that it has
        detect_many(model, str(images), out, workers=1)
    monkeypatch.setattr(bulk, '_run', lambda *_: None)  # as workers that cannot write to this folder
    with pytest.raises(UserError, match='6 of 6 parts are missing'):
        detect_many(model, str(images), out, workers=1)


def test_user_errors(model: str, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'no.parquet').write_bytes(b'PAR1 no')
    (tmp_path / 'empty.txt').touch()
    pq.write_table(pa.table({'n': ['a.jpg']}), tmp_path / 'n.parquet')
    for name in ('nowhere', 'empty', 'empty.txt', 'no.parquet', 'n.parquet', 'nosuch://bucket'):
        source = name if '://' in name else str(tmp_path / name)
        with pytest.raises(UserError, match=f'{name}: '):
            detect_many(model, source, str(tmp_path / 'out'))
    with pytest.raises(UserError, match='n.parquet: '):
        detect_many(str(tmp_path / 'n.parquet'), str(tmp_path), str(tmp_path / 'out'))
    assert list((tmp_path / 'out').iterdir()) == []

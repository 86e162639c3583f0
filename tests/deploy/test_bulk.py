from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ghost_det.deploy import Detector, Metadata, bulk
from ghost_det.deploy.bulk import Counts, detect_many
from ghost_det.deploy.detector import Detections
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
    """Images that take a while to decode, each with a bright box of its own."""
    folder = tmp_path_factory.mktemp('images')
    for index in range(GOOD):
        image = np.full((2500 + index, 3000, 3), 60, np.uint8)
        image[100 * index // 2 :, 60 * index :] = 255
        path = folder / f'{index % 2}/{index:03d} %20?.jpg'
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image)
    (folder / BAD[0]).write_bytes(path.read_bytes()[:300])
    (folder / BAD[1]).touch()
    return folder


@pytest.fixture(scope='module')
def cluster(images: Path) -> Iterator[str]:
    ray.init('local', num_cpus=2, object_store_memory=2**27, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def workers_here() -> list[int]:
    found, parents = [], {}
    for entry in Path('/proc').iterdir():
        try:
            if entry.name.isdecimal():
                parents[int(entry.name)] = int((entry / 'stat').read_text().rpartition(')')[2].split()[1])
                if (entry / 'cmdline').read_bytes().startswith(b'ray::detect_shard'):
                    found.append(int(entry.name))
        except OSError:  # it ended meanwhile
            continue

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in found if ours(pid)]


def wait_for(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + 120
    while time.monotonic() < end:
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
        alone = detector(image)
        assert row['error'] is None and (row['height'], row['width']) == image.shape[:2]
        assert len(alone) == 1 and row['labels'] == alone.labels.tolist()
        assert row['scores'] == alone.scores.tolist() and row['boxes'] == alone.boxes.tolist()


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(
    cluster: str, model: str, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / 'out', []
    options: dict[str, Any] = dict(workers=2, shard=SHARD)
    run = threading.Thread(
        target=lambda: results.append(detect_many(model, str(images), str(out), **options))
    )
    run.start()
    wait_for(lambda: parts(out))
    killed = wait_for(workers_here)
    assert not any('libtorch' in Path(f'/proc/{pid}/maps').read_text() for pid in killed)
    os.kill(killed[0], signal.SIGKILL)
    assert len(parts(out)) < (GOOD + 2) // SHARD, 'all was done before the kill'
    run.join()
    assert results == [Counts(GOOD + 2, 2, GOOD)]
    check(out, images, model)
    said = capfd.readouterr().out
    assert all(name in said for name in BAD)


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_another(
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
    assert len(done) < (GOOD + 2) // SHARD, 'all was done before the kill'
    (out / 'parts/.partial-1-x').touch()  # as a kill while writing leaves it

    again = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1, again.stderr
    assert f'{GOOD + 2} images, 2 failed; {GOOD} objects' in again.stdout
    check(out, images, model)
    assert {part: part.stat().st_mtime_ns for part in done} == done
    assert sorted((out / 'parts').iterdir()) == parts(out)


@pytest.mark.slow
def test_parquet_in_and_what_could_not_be_read_again(
    cluster: str, model: str, images: Path, tmp_path: Path
) -> None:
    late = tmp_path / 'late.jpg'
    names = [str(path) for path in sorted(images.rglob('*.jpg'))][:4]
    table = pa.table({'file': [*names, names[0], 'late.jpg', None, 'never.jpg'], 'other': range(8)})
    pq.write_table(table, tmp_path / 'list.parquet')
    arguments: dict[str, Any] = dict(column='file', limit=5, shard=2, workers=1)
    source, out = str(tmp_path / 'list.parquet'), tmp_path / 'out'
    assert detect_many(model, source, str(out), **arguments) == Counts(5, 1, 4)
    assert [row['path'] for row in rows(out)] == [*names, str(late)]
    dates = [part.stat().st_mtime_ns for part in parts(out)]

    late.write_bytes(Path(names[0]).read_bytes())
    assert detect_many(model, source, str(out), **arguments, retry=True) == Counts(5, 0, 5)
    assert [part.stat().st_mtime_ns for part in parts(out)][:2] == dates[:2]
    assert rows(out)[4]['boxes'] == rows(out)[0]['boxes']

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
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({'model': other}, 'model '),
        ({'source': str(images / '1')}, 'images 19, there 40'),
        ({'score': 0.5}, 'score 0.5, there 0.3'),
        ({'shard': 8}, 'shard 8, there 7'),
    )
    for change, message in changes:
        with pytest.raises(UserError, match=f'another run: {message}'):
            detect_many(**{'model': model, 'source': str(images), 'out': out, **change})
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
    for source, message in (
        ('nowhere', 'nowhere: no such file or folder'),
        ('empty', 'empty: no images'),
        ('empty.txt', 'empty.txt: names no images'),
        ('no.parquet', 'no.parquet: '),
        ('n.parquet', "n.parquet: .*column 'path'.* n: "),
    ):
        with pytest.raises(UserError, match=message):
            detect_many(model, str(tmp_path / source), str(tmp_path / 'out'))
    with pytest.raises(UserError, match='nosuch://bucket'):
        detect_many(model, 'nosuch://bucket/folder', str(tmp_path / 'out'))
    with pytest.raises(UserError, match='expected an exported detector'):
        detect_many(str(tmp_path / 'n.parquet'), str(tmp_path), str(tmp_path / 'out'))
    assert list((tmp_path / 'out').iterdir()) == []


def test_an_image_that_cannot_be_used_is_an_error_in_its_row(tmp_path: Path) -> None:
    class Picky:
        classes = ()

        def stream(self, images: Any, batch: int = 1) -> Iterator[Any]:
            for image in images:
                if len(image) == 2:
                    raise ValueError('too thin')
                yield Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    paths = [str(tmp_path / f'{height}.png') for height in (8, 2, 9)]
    for path in paths:
        cv2.imwrite(path, np.zeros((int(Path(path).stem), 30, 3), np.uint8))
    good, thin, other, missing = bulk.detect_rows(Picky(), [*paths, f'{tmp_path}/no.png'], 4, 1)
    assert (good['path'], good['width'], good['height']) == (paths[0], 30, 8) and other['height'] == 9
    assert 'error' not in good and 'width' not in thin and thin['boxes'] == missing['boxes'] == []
    assert thin['error'].startswith(f'{paths[1]}: the detector cannot run on 30 x 2 px: ')
    assert 'no.png' in missing['error']

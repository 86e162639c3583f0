from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from ghost_det.data.coco import COCO, Catalog, prepare, subset, unpack, verify
from ghost_det.data.coco.prepare import _Copy
from ghost_det.data.coco.verify import image_problem
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError
from tests.conftest import Cli

from .coco_server import BYTES, Server, archive_of, names, publish, serving, wait_for, zipped

pytestmark = pytest.mark.usefixtures('impatient')


def test_too_little_space_is_reported_before_anything_is_downloaded(tmp_path: Path, server: Server) -> None:
    huge = Catalog(archive_of('a.zip', BYTES, unpacked=10**15), {'val': COCO.parts['val']}, server.url)
    for function in (prepare, partial(subset, count=1)):
        with pytest.raises(UserError, match=r'GB free, up to 10\d+\.\d GB needed .* --root'):
            function(tmp_path, splits=['val'], catalog=huge)
    assert not server.asked


def test_the_space_that_is_needed_is_that_of_what_is_missing(tmp_path: Path) -> None:
    copy, part = _Copy(tmp_path, '', 1, False), COCO.parts['val']
    archive = part.archive
    assert copy.missing_share(part) == 1
    assert copy.needed_bytes(archive, 1) == archive.size + archive.unpacked
    (tmp_path / 'val2017.zip.part').write_bytes(bytes(1000))
    assert copy.needed_bytes(archive, 1) == archive.size - 1000 + archive.unpacked
    assert copy.needed_bytes(archive, 0.01) == archive.unpacked // 100  # images one by one
    assert copy.needed_bytes(archive, 0) == 0
    (tmp_path / 'val2017').mkdir()
    for number in range(5):
        (tmp_path / 'val2017' / str(number)).touch()
    assert copy.missing_share(part) == 1 - 5 / 5000


def test_damaged_archives_leave_no_half_files(tmp_path: Path) -> None:
    intact = zipped({'val2017/a.jpg': BYTES}, zipfile.ZIP_STORED)
    changed = intact.replace(BYTES[:99], BYTES[:98] + b'!')
    for number, damaged in enumerate([changed, intact[:-1000], b'']):
        path = tmp_path / f'{number}.zip'
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f'{number}.zip: damaged'):
            unpack.unpack(path, tmp_path, 1)
        assert not list(tmp_path.glob('val2017/*'))


def test_unpacking_keeps_intact_files(tmp_path: Path) -> None:
    images = {f'val2017/{n}.jpg': random.Random(n).randbytes(1000) for n in range(40)}
    (tmp_path / 'a.zip').write_bytes(zipped(images))
    unpack.unpack(tmp_path / 'a.zip', tmp_path, 1, only=list(images)[:20])
    there = sorted((tmp_path / 'val2017').iterdir())
    assert len(there) == 20
    there[0].write_bytes(bytes(1000))  # of the right size, but with other bytes
    there[1].write_bytes(there[1].read_bytes()[:-1])
    before = {path: path.stat().st_ino for path in there}
    unpack.unpack(tmp_path / 'a.zip', tmp_path, 4)
    assert all(content == (tmp_path / name).read_bytes() for name, content in images.items())
    assert [path for path in there if path.stat().st_ino != before[path]] == there[:2]


@pytest.fixture(scope='module')
def coco_server(coco_mini: Path) -> Iterator[tuple[Server, Catalog]]:
    with serving() as server:
        yield server, publish(coco_mini, server)


@pytest.fixture
def published(coco_server: tuple[Server, Catalog]) -> tuple[Server, Catalog]:
    coco_server[0].asked.clear()
    return coco_server


def test_a_copy_is_prepared_verified_damaged_and_repaired(
    published: tuple[Server, Catalog], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, catalog = published
    root, both = tmp_path / 'data/coco', ['train', 'val']
    prepare(root, both, catalog=catalog)
    assert names(root) == ['.prepare_coco.lock', 'annotations', 'train2017', 'val2017']
    assert names(root / 'annotations') == ['instances_train2017.json', 'instances_val2017.json']
    assert 'val2017: intact: 79 images, 624 boxes' in capsys.readouterr().out
    assert find_data(root).train is not None
    server.asked.clear()
    prepare(root, both, catalog=catalog)
    assert not server.asked and all(state.intact for state in verify(root, both, catalog=catalog))

    first, second = sorted((root / 'val2017').glob('*.jpg'))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-2000])
    (root / 'val2017/.partial-1-ab').write_bytes(b'of a killed process')
    train, val = verify(root, both, catalog=catalog)
    assert train.intact and val.images == {first.name: 'missing', second.name: 'truncated'}
    assert not server.asked
    prepare(root, both, catalog=catalog)
    assert sorted(path for path, _ in server.asked) == [f'/val2017/{first.name}', f'/val2017/{second.name}']
    assert all(state.intact for state in verify(root, both, catalog=catalog))
    assert not (root / 'val2017/.partial-1-ab').exists()

    for image in list((root / 'val2017').glob('*.jpg'))[:30]:
        image.unlink()
    annotations = root / 'annotations/instances_train2017.json'
    content = json.loads(annotations.read_text())
    del content['annotations'][0]
    annotations.write_text(json.dumps(content))
    (line,) = verify(root, ['train'], catalog=catalog)[0].lines(root)
    assert 'expected 80 images and 739 boxes, got 80 and 738; expected SHA-256' in line
    annotations.write_bytes(annotations.read_bytes()[:-10])
    train, val = verify(root, both, catalog=catalog)
    assert train.annotations and len(val.images) == 30 and '30 missing: ' in val.lines(root)[0]
    server.asked.clear()
    prepare(root, both, keep_zips=True, catalog=catalog)
    assert {path for path, _ in server.asked} == {
        '/annotations/annotations_trainval2017.zip',
        '/zips/val2017.zip',
    }
    assert all(state.intact for state in verify(root, both, catalog=catalog))
    assert (root / 'val2017.zip').exists() and annotations.with_name(f'{annotations.name}.replaced').exists()


def test_a_subset_is_deterministic_and_part_of_larger_ones(
    published: tuple[Server, Catalog], tmp_path: Path
) -> None:
    server, catalog = published
    small = subset(tmp_path / 'coco', 10, ['train', 'val'], catalog=catalog)
    assert small == tmp_path / 'coco-subset-10'
    data = find_data(small)
    assert data.train is not None and len(data.classes) == 80
    content = json.loads(data.train.annotations.read_text())
    chosen = {image['file_name'] for image in content['images']}
    assert {box['image_id'] for box in content['annotations']} == {image['id'] for image in content['images']}
    assert any('segmentation' in box for box in content['annotations'])
    listed = json.loads((tmp_path / 'coco' / catalog.parts['train'].annotations).read_text())
    used = {box['image_id'] for box in listed['annotations']}
    by_hash = [image['file_name'] for image in listed['images'] if image['id'] in used]
    by_hash.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert names(small / 'train2017') == sorted(chosen) == sorted(by_hash[:10])
    assert len(names(small / 'val2017')) == 2
    assert not any(path.startswith('/zips') for path, _ in server.asked)
    lost = sorted((small / 'train2017').glob('*.jpg'))[0]
    lost.unlink()
    server.asked.clear()
    subset(tmp_path / 'coco', 10, ['train', 'val'], catalog=catalog)
    assert server.asked == [(f'/train2017/{lost.name}', '')]
    larger = subset(tmp_path / 'coco', 20, ['train'], catalog=catalog)
    assert chosen < set(names(larger / 'train2017'))
    with pytest.raises(UserError, match=r'--subset: expected at most \d+, the images with boxes, got 500'):
        subset(tmp_path / 'coco', 500, ['train'], catalog=catalog)


def test_a_page_in_place_of_an_image_is_not_kept(
    published: tuple[Server, Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, catalog = published
    pages = {
        path: b'<html>log in</html>' if path.startswith('/train2017') else content
        for path, content in server.files.items()
    }
    monkeypatch.setattr(server, 'files', pages)
    with pytest.raises(UserError, match=r'/train2017/\d+.jpg: not a readable image; got 19 bytes'):
        subset(tmp_path / 'coco', 3, ['train'], catalog=catalog)
    assert not list((tmp_path / 'coco-subset-3').rglob('*.*'))


def test_a_second_process_in_the_folder_is_refused(published: tuple[Server, Catalog], tmp_path: Path) -> None:
    server, catalog = published
    server.hold_after = server.served + 1000
    server.go.clear()
    first = Thread(target=prepare, args=(tmp_path / 'coco', ['val']), kwargs=dict(catalog=catalog))
    first.start()
    try:
        wait_for(lambda: server.asked)
        with pytest.raises(UserError, match='another prepare-coco is running there'):
            prepare(tmp_path / 'coco', ['val'], catalog=catalog)
    finally:
        server.hold_after = None
        server.go.set()
        first.join()
    assert all(state.intact for state in verify(tmp_path / 'coco', ['val'], catalog=catalog))


def test_an_archive_put_there_by_hand_is_used_or_refused(
    published: tuple[Server, Catalog], tmp_path: Path
) -> None:
    server, catalog = published
    content = server.files['/zips/val2017.zip']
    (tmp_path / 'val2017.zip').write_bytes(content[:5000])
    with pytest.raises(UserError, match=r'val2017.zip: not the published archive.* got 5,000 bytes'):
        prepare(tmp_path, ['val'], catalog=catalog)
    assert (tmp_path / 'val2017.zip').exists()
    (tmp_path / 'val2017.zip').write_bytes(content)
    server.asked.clear()
    prepare(tmp_path, ['val'], catalog=catalog)
    assert not server.asked and not (tmp_path / 'val2017.zip').exists()


def test_problems_of_images(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    assert image_problem(path, (64, 48)) == 'missing'
    image = Image.effect_noise((64, 48), 90)
    image.save(path)
    intact = path.read_bytes()
    problems = []
    for content in (intact, intact + b'\0' * 50, intact[:-500], intact[:100], b'', b'<html>'):
        path.write_bytes(content)
        problems.append(image_problem(path, (64, 48)))
    assert problems == [None, None, 'truncated'] + ['not a readable image'] * 3
    path.write_bytes(intact)
    assert image_problem(path, (48, 64)) == 'not of the annotated size'
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    assert image_problem(path, (48, 64)) is None and image_problem(path, (64, 48)) is None
    image.save(path, format='PNG')  # as some of COCO's are
    assert image_problem(path, (64, 48)) is None


def test_a_full_disk_is_one_message_and_the_next_call_resumes(
    published: tuple[Server, Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, catalog = published
    fsync, count = os.fsync, itertools.count()

    def full(number: int) -> None:
        if next(count) == 4:
            raise OSError(28, 'No space left on device')
        fsync(number)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='No space left on device'):
        prepare(tmp_path, ['val'], catalog=catalog)
    prepare(tmp_path, ['val'], catalog=catalog)
    assert all(state.intact for state in verify(tmp_path, ['val'], catalog=catalog))


@pytest.mark.parametrize(
    ('words', 'code', 'message'),
    [
        ('--verify', 1, 'instances_val2017.json: missing'),
        ('--verify --root none', 2, '--root none'),
        ('--subset 0', 2, '--subset'),
        ('--subset 9 --verify', 2, '--verify'),
        *(
            (f'--url {url}', 2, f"'{url}'")
            for url in (
                'images.cocodataset.org',
                'http://[x',
                'http://localhost:x',
                'http://a..b',
                'file:///etc',
            )
        ),
    ],
)
def test_exit_codes(cli: Cli, tmp_path: Path, words: str, code: int, message: str) -> None:
    done = cli(f'prepare-coco --root {tmp_path} {words}')
    assert done.returncode == code and message in done.stdout + done.stderr
    assert 'Traceback' not in done.stderr and not list(tmp_path.iterdir())


def test_the_command_downloads_verifies_and_prints_how_to_train(
    published: tuple[Server, Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    _, catalog = published
    for name, function in (('prepare', prepare), ('subset', subset), ('verify', verify)):
        monkeypatch.setattr(f'ghost_det.data.coco.{name}', partial(function, catalog=catalog))
    for words, command in (
        ('', 'retinanet_ghostnet_fpn_lite'),
        ('--subset 5', 'retinanet_ghostnet_fpn_lite --data data/coco-subset-5'),
    ):
        *_, last = cli(f'prepare-coco {words}', cwd=tmp_path).stdout.splitlines()
        assert last.startswith('train with: ') and last.endswith(f'ghost-det train {command}')
    done = cli('prepare-coco --verify', cwd=tmp_path)
    assert done.returncode == 0 and 'val2017: intact: 79 images, 624 boxes' in done.stdout


def test_the_catalog_is_complete() -> None:
    archives = [COCO.annotations, *(part.archive for part in COCO.parts.values())]
    names = ['annotations/annotations_trainval2017.zip', 'zips/train2017.zip', 'zips/val2017.zip']
    assert [archive.path for archive in archives] == names
    assert COCO.url == 'http://images.cocodataset.org'
    assert sum(archive.size for archive in archives) == 20_405_354_669
    assert [(part.images, part.boxes) for part in COCO.parts.values()] == [
        (118_287, 860_001),
        (5_000, 36_781),
    ]

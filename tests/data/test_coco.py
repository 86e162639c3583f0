from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import filelock
import pytest
from PIL import Image

from ghost_det.data.coco import Archive, Catalog, prepare, subset, unpack, verify
from ghost_det.data.coco.prepare import _Copy
from ghost_det.data.coco.verify import image_problem
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError
from tests.conftest import Cli

from .coco_server import BYTES, Server, names, publish, serving, zipped
from .faults import Folder
from .makers import orientation_tag

pytestmark = pytest.mark.usefixtures('impatient')


@pytest.fixture(scope='module')
def coco_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Catalog]]:
    folder = Folder(tmp_path_factory.mktemp('published') / 'set', train=40, val=40)
    del folder.content['train']['annotations'][:3]
    with serving() as server:
        yield server, publish(folder.save(), server)


@pytest.fixture
def published(coco_server: tuple[Server, Catalog]) -> tuple[Server, Catalog]:
    coco_server[0].asked.clear()
    return coco_server


@pytest.mark.parametrize(
    ('there', 'missing', 'needed'), [(0, 1, '42.0'), (10**10, 1, '32.0'), (0, 0.5, '31.0')]
)
def test_too_little_space_is_reported_before_an_archive_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, missing: float, needed: str
) -> None:
    monkeypatch.setattr('shutil.disk_usage', lambda folder: SimpleNamespace(free=10**9))
    os.truncate(os.open(tmp_path / 'a.zip.part', os.O_CREAT | os.O_WRONLY), there)
    with pytest.raises(UserError, match=f'1.0 GB free, {needed} GB needed .* --root'):
        _Copy(tmp_path, 'http://127.0.0.1:9', 1)._ensure_archive(Archive('a.zip', 2 * 10**10, ''), missing)


def test_archives_are_unpacked_completely_or_refused(tmp_path: Path) -> None:
    intact = zipped({f'val2017/{n}.jpg': BYTES[n:] for n in range(4)})
    path, folder = tmp_path / 'a.zip', tmp_path / 'val2017'
    for damaged in (intact.replace(BYTES[:99], BYTES[:98] + b'!'), intact[:-1000], b''):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match='a.zip: damaged'):
            unpack.unpack(path, tmp_path, 1)
        assert not (folder / '0.jpg').exists() and not list(folder.glob('.*'))
    path.write_bytes(intact)
    unpack.unpack(path, tmp_path, 1, only=[f'val2017/{n}.jpg' for n in range(3)])
    assert names(folder) == ['0.jpg', '1.jpg', '2.jpg']
    (folder / '0.jpg').write_bytes(bytes(len(BYTES)))  # of the right size, but with other bytes
    (folder / '1.jpg').write_bytes(BYTES[:-9])
    kept = (folder / '2.jpg').stat().st_ino
    unpack.unpack(path, tmp_path, 4)
    assert all((folder / f'{n}.jpg').read_bytes() == BYTES[n:] for n in range(4))
    assert (folder / '2.jpg').stat().st_ino == kept


def test_a_copy_is_prepared_verified_damaged_and_repaired(
    published: tuple[Server, Catalog], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, catalog = published
    root, both = tmp_path / 'data/coco', ['train', 'val']

    def intact() -> list[bool]:
        return [state.intact for state in verify(root, both, catalog=catalog)]

    def repaired() -> set[str]:
        server.asked.clear()
        prepare(root, both, catalog=catalog)
        assert intact() == [True, True]
        return {path for path, _ in server.asked}

    archive = '/annotations/annotations_trainval2017.zip'
    assert repaired() == {archive, '/zips/train2017.zip', '/zips/val2017.zip'}
    assert names(root) == ['.prepare_coco.lock', 'annotations', 'train2017', 'val2017']
    assert names(root / 'annotations') == ['instances_train2017.json', 'instances_val2017.json']
    assert 'train2017: intact: 40 images, 37 boxes' in capsys.readouterr().out
    assert find_data(root).train is not None
    assert repaired() == set()

    first, second, *others = sorted((root / 'val2017').iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-200])
    (root / 'val2017/.partial-1-ab').write_bytes(b'of a killed process')
    train, val = verify(root, both, catalog=catalog)
    assert train.intact and val.images == {first.name: 'missing', second.name: 'truncated'}
    assert '1 missing: 0501.jpg' in val.lines(root)[0]
    assert repaired() == {f'/val2017/{first.name}', f'/val2017/{second.name}'}
    assert not (root / 'val2017/.partial-1-ab').exists()

    for image in others[:20]:
        image.unlink()
    annotations = root / 'annotations/instances_train2017.json'
    annotations.write_bytes(annotations.read_bytes()[:-10])
    assert intact() == [False, False]
    assert repaired() == {archive, '/zips/val2017.zip'}
    assert annotations.with_name(f'{annotations.name}.replaced').exists()


def test_a_subset_is_deterministic_and_part_of_larger_ones(
    published: tuple[Server, Catalog], tmp_path: Path
) -> None:
    server, catalog = published
    small = subset(tmp_path / 'coco', 10, ['train', 'val'], catalog=catalog)
    assert small == tmp_path / 'coco-subset-10' and len(find_data(small).classes) == 3
    content = json.loads((small / 'annotations/instances_train2017.json').read_text())
    assert {box['image_id'] for box in content['annotations']} == {image['id'] for image in content['images']}
    with_boxes = [f'{number:04d}.jpg' for number in range(4, 41)]
    with_boxes.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert names(small / 'train2017') == sorted(with_boxes[:10]) and len(names(small / 'val2017')) == 2
    assert names(small / 'train2017') == sorted(image['file_name'] for image in content['images'])
    assert not any(path.startswith('/zips') for path, _ in server.asked)
    (small / 'train2017' / with_boxes[0]).unlink()
    server.asked.clear()
    subset(tmp_path / 'coco', 10, ['train', 'val'], catalog=catalog)
    assert [path for path, _ in server.asked] == [f'/train2017/{with_boxes[0]}']
    larger = subset(tmp_path / 'coco', 20, ['train'], catalog=catalog)
    assert names(larger / 'train2017') == sorted(with_boxes[:20])
    with pytest.raises(UserError, match='--subset: expected at most 37, the images with boxes, got 38'):
        subset(tmp_path / 'coco', 38, ['train'], catalog=catalog)


def test_a_page_in_place_of_an_image_is_not_kept(
    published: tuple[Server, Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, catalog = published
    images = [path for path in server.files if path.startswith('/train2017')]
    monkeypatch.setattr(server, 'files', server.files | dict.fromkeys(images, b'<html>log in</html>'))
    with pytest.raises(UserError, match=r'/train2017/\d+.jpg: not a readable image; got 19 bytes'):
        subset(tmp_path / 'coco', 3, ['train'], catalog=catalog)
    assert not list((tmp_path / 'coco-subset-3').rglob('*.*'))


def test_an_archive_put_there_by_hand_is_used_or_refused(
    published: tuple[Server, Catalog], tmp_path: Path
) -> None:
    server, catalog = published
    path, content = tmp_path / 'val2017.zip', server.files['/zips/val2017.zip']
    for bad, message in ((content[:5000], 'val2017.zip: not the published archive'), (content, 'another')):
        path.write_bytes(bad)
        lock = filelock.FileLock(tmp_path / '.prepare_coco.lock')
        with lock if bad == content else nullcontext(), pytest.raises(UserError, match=message):
            prepare(tmp_path, ['val'], catalog=catalog)
    server.asked.clear()
    prepare(tmp_path, ['val'], catalog=catalog)
    assert not server.asked and not path.exists()


def test_problems_of_images(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    assert image_problem(path, (64, 48)) == 'missing'
    image = Image.effect_noise((64, 48), 90)
    image.save(path)
    intact = path.read_bytes()
    for content, problem in (
        (intact + b'\0' * 50, None),
        (intact[:-500], 'truncated'),
        *((content, 'not a readable image') for content in (intact[:100], b'', b'<html>')),
    ):
        path.write_bytes(content)
        assert image_problem(path, (64, 48)) == problem
    for form, orientation in (('JPEG', 1), ('JPEG', 6), ('PNG', 1)):  # as some of COCO's are
        image.save(path, form, exif=orientation_tag(orientation))
        assert image_problem(path, (64, 48)) is None
        assert image_problem(path, (48, 64)) == (None if orientation == 6 else 'not of the annotated size')


def test_a_full_disk_is_one_message_and_the_next_call_resumes(
    published: tuple[Server, Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match='No space left on device'):
        patch.setattr(os, 'fsync', Mock(side_effect=[None, OSError(28, 'No space left on device')]))
        prepare(tmp_path, ['val'], catalog=published[1])
    prepare(tmp_path, ['val'], catalog=published[1])
    assert verify(tmp_path, ['val'], catalog=published[1])[0].intact


def test_the_command_downloads_verifies_and_prints_how_to_train(
    published: tuple[Server, Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    _, catalog = published
    for name, function in (('prepare', prepare), ('subset', subset), ('verify', verify)):
        monkeypatch.setattr(f'ghost_det.data.coco.{name}', partial(function, catalog=catalog))
    for words, code, end in (
        ('--verify', 2, 'data/coco: no such folder; without --verify, it is created'),
        ('--verify --root .', 1, 'run ghost-det prepare-coco --root . to download what is missing or wrong'),
        ('', 0, 'train with: ghost-det train gfl_ghostnet_ghostpan_lite'),
        ('--subset 5', 0, 'ghost-det train gfl_ghostnet_ghostpan_lite --data data/coco-subset-5'),
        ('--verify', 0, 'val2017: intact: 40 images, 40 boxes'),
    ):
        done = cli(f'prepare-coco {words}', cwd=tmp_path)
        assert done.returncode == code and (done.stdout or done.stderr).strip().endswith(end), done

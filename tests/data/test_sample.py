"""The generated sample: that it is what it says, and always the same."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ghost_det.data.sample import VERSION, make_sample
from ghost_det.data.scene import LONG_SIDE, SHAPES
from ghost_det.errors import UserError
from ghost_det.utils.files import cache_root

SPLITS = {'train': 12, 'val': 8}


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp('cache'), *SPLITS.values())


def load(folder: Path, split: str) -> COCO:
    return COCO(str(folder / 'annotations' / f'instances_{split}2017.json'))


def test_a_change_of_the_drawings_comes_with_a_new_version(made: Path) -> None:
    boxes = [box['bbox'] for box in load(made, 'val').dataset['annotations']]
    assert (VERSION, zlib.crc32(repr(boxes).encode())) == (1, 4087170295), (
        'raise VERSION, or old caches live on'
    )


@pytest.mark.parametrize('split', SPLITS)
def test_annotations_fit_the_images(made: Path, split: str) -> None:
    coco = load(made, split)
    assert [category['name'] for category in coco.dataset['categories']] == list(SHAPES)
    assert len(coco.imgs) == SPLITS[split] == len(list((made / f'{split}2017').iterdir()))
    for image in coco.imgs.values():
        pixels = cv2.imread(str(made / f'{split}2017' / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3) and max(pixels.shape) == LONG_SIDE
        boxes = coco.loadAnns(coco.getAnnIds(image['id']))
        for box in boxes:
            corners = np.array(box['bbox']) + [0, 0, *box['bbox'][:2]]
            assert corners.min() >= 0 and (corners[2:] <= [image['width'], image['height']]).all()
            points = np.concatenate([np.reshape(p, (-1, 2)) for p in box['segmentation']])
            assert np.abs(np.hstack([points.min(0), points.max(0)]) - corners).max() < 0.5
            # With the holes of rings, which would make it half as large again.
            assert 0.85 < coco.annToMask(box).sum() / box['area'] < 1.1 and box['iscrowd'] == 0
        # Neighbours may share the pixels that their common edge passes through.
        double = np.sum([coco.annToMask(box) for box in boxes], axis=0) > 1
        assert not cv2.erode(double.astype(np.uint8), np.ones((3, 3), np.uint8)).any()


def test_a_set_is_made_once_and_is_the_beginning_of_a_larger_one(made: Path, tmp_path: Path) -> None:
    root = make_sample(tmp_path, 4, 2)
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert make_sample(tmp_path, 4, 2) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before
    few, many = ({p.relative_to(each): p.read_bytes() for p in each.rglob('*.jpg')} for each in (root, made))
    assert len(few) == 6 and few.items() <= many.items()
    assert len({*many.values()}) == len(many)  # no picture is in both splits
    for split in SPLITS:
        boxes = load(root, split).dataset['annotations']
        assert boxes == load(made, split).dataset['annotations'][: len(boxes)]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('GHOST_DET_CACHE', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    for name, place in (
        ('HOME', '.cache/ghost_det'),
        ('XDG_CACHE_HOME', 'ghost_det'),
        ('GHOST_DET_CACHE', ''),
    ):
        monkeypatch.setenv(name, str(tmp_path / name))  # each wins over those before it
        assert cache_root() == tmp_path / name / place


@pytest.mark.parametrize('blocked', ['', f'sample-v{VERSION}-1-1'])
def test_an_unwritable_cache_is_named_with_the_way_out(tmp_path: Path, blocked: str) -> None:
    (tmp_path / 'cache' / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / 'cache' / blocked).touch()
    with pytest.raises(UserError, match=f'{tmp_path}/cache.*GHOST_DET_CACHE'):
        make_sample(tmp_path / 'cache', 1, 1)


def test_a_camera_has_one_shape(tmp_path: Path) -> None:
    root = make_sample(tmp_path, 2, 1, one_shape=True)
    for split in SPLITS:
        sizes = {(each['width'], each['height']) for each in load(root, split).imgs.values()}
        assert sizes == {Image.open(path).size for path in (root / f'{split}2017').iterdir()} == {(320, 240)}
    assert root != make_sample(tmp_path, 2, 1)

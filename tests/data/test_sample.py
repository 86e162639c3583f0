"""The generated sample: that it is what it says, always the same, and never half there."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from ghost_det.data import sample as module
from ghost_det.data.sample import VERSION, make_sample
from ghost_det.data.scene import CONFIG, SHAPES, SampleConfig
from ghost_det.errors import UserError

TRAIN, VAL = 96, 48
# Without its __init__, as importing the package would take seconds of torch in each process.
CHILD = """
import pathlib, sys, types
package = sys.modules['ghost_det'] = types.ModuleType('ghost_det')
package.__path__ = [sys.argv[1]]
from ghost_det.data.sample import make_sample
make_sample(pathlib.Path(sys.argv[2]), 20, 8)
"""


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp('cache'), TRAIN, VAL)


def load(folder: Path, split: str) -> COCO:
    return COCO(str(folder / 'annotations' / f'instances_{split}2017.json'))


def annotations(folder: Path) -> list[dict[str, Any]]:
    return [a for split in ('train', 'val') for a in load(folder, split).anns.values()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_a_change_of_the_config_comes_with_a_new_version() -> None:
    pinned = (VERSION, zlib.crc32(repr(SampleConfig()).encode()))
    assert pinned == (1, 3641997854), 'raise VERSION, or old caches live on; then pin the new pair'


@pytest.mark.parametrize(('split', 'count'), [('train', TRAIN), ('val', VAL)])
def test_counts_files_and_fields(made: Path, split: str, count: int) -> None:
    coco = load(made, split)
    assert set(coco.dataset) == {'info', 'licenses', 'images', 'annotations', 'categories'}
    assert [c['name'] for c in coco.loadCats([1, 2, 3, 4, 5, 6])] == list(SHAPES)
    assert len(coco.imgs) == count == len(list((made / f'{split}2017').iterdir()))
    for image in coco.imgs.values():
        pixels = cv2.imread(str(made / f'{split}2017' / image['file_name']))
        assert pixels is not None and pixels.shape == (image['height'], image['width'], 3)
        assert max(pixels.shape) == CONFIG.long_side
    assert len({a['id'] for a in coco.anns.values()}) == len(coco.dataset['annotations'])
    assert all(a['iscrowd'] == 0 for a in coco.anns.values())


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_lie_in_the_image_and_fit_the_masks(made: Path, split: str) -> None:
    coco = load(made, split)
    for annotation in coco.anns.values():
        image = coco.imgs[annotation['image_id']]
        x, y, width, height = annotation['bbox']
        box = np.array([x, y, x + width, y + height])
        assert 0 <= x < x + width <= image['width'] and 0 <= y < y + height <= image['height']
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation['segmentation']])
        assert np.abs(np.concatenate([points.min(0), points.max(0)]) - box).max() < 0.5
        mask = coco.annToMask(annotation)
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        # A pointed tip narrower than a pixel is in the polygon and not in the mask.
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.array(edges) - box).max() <= 2.5
        assert 0.85 < mask.sum() / annotation['area'] < 1.1


def test_holes_are_holes(made: Path) -> None:
    """A ring covers about 1 - 0.58² of its ellipse; without the hole, all of it."""
    ring = list(SHAPES).index('ring') + 1
    coco = load(made, 'train')
    rings = coco.loadAnns(coco.getAnnIds(catIds=[ring]))
    shares = [coco.annToMask(a).sum() / np.prod(a['bbox'][2:]) for a in rings]
    assert 0.35 < float(np.median(shares)) < 0.6


def test_masks_of_one_picture_are_disjoint(made: Path) -> None:
    coco = load(made, 'train')
    for ids in (coco.getAnnIds(i) for i in coco.imgs):
        masks = [coco.annToMask(coco.anns[i]) for i in ids]
        double = np.sum(masks, axis=0) > 1
        # Neighbours may share the pixels that their common edge passes through.
        assert cv2.erode(double.astype(np.uint8), np.ones((3, 3), np.uint8)).sum() == 0


def test_scales_classes_and_overlaps_vary(made: Path) -> None:
    found = annotations(made)
    sides = np.sqrt([a['bbox'][2] * a['bbox'][3] for a in found])
    assert sides.max() / sides.min() >= 10 and sides.min() > 12
    assert (sides < 24).mean() <= 0.15
    counts = np.bincount([a['category_id'] for a in found], minlength=7)[1:]
    assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.5 * counts.mean()
    coco, overlapped = load(made, 'train'), 0
    for ids in (coco.getAnnIds(i) for i in coco.imgs):
        boxes = np.array([coco.anns[i]['bbox'] for i in ids])
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        shared = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).min(axis=2) > 2
        overlapped += bool((shared.sum(axis=1) > 1).any())
    assert overlapped > 0.3 * TRAIN


def test_no_picture_is_in_both_splits(made: Path) -> None:
    files = contents(made)
    pictures = [data for name, data in files.items() if name.endswith('.jpg')]
    assert len(set(pictures)) == TRAIN + VAL
    assert not set(load(made, 'train').imgs) & set(load(made, 'val').imgs)


def test_two_processes_at_once_make_the_same_set(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, '-c', CHILD, str(Path(module.__file__).parents[1]), str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1
    smaller, whole = make_sample(tmp_path, 20, 8), contents(made)
    assert len(contents(smaller)) == 30
    assert contents(smaller) == contents(make_sample(tmp_path / 'again', 20, 8))
    assert all(whole[name] == data for name, data in contents(smaller).items() if name.endswith('.jpg'))
    for split in ('train', 'val'):
        few, many = (load(folder, split).dataset['annotations'] for folder in (smaller, made))
        assert few == many[: len(few)]


def test_other_counts_are_another_set_and_a_second_call_writes_nothing(tmp_path: Path) -> None:
    first = make_sample(tmp_path, 2, 1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
    assert make_sample(tmp_path, 2, 1) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')} == before
    assert make_sample(tmp_path, 1, 2) != first
    assert len(load(first, 'train').imgs) == 2


def test_a_failure_half_way_leaves_nothing_and_the_next_call_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / f'.sample-v{VERSION}-2-1-abcdef' / 'set' / 'train2017'
    killed.mkdir(parents=True)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.json, 'dumps', fail)
        with pytest.raises(KeyboardInterrupt):
            make_sample(tmp_path, 2, 1)
    assert list(tmp_path.iterdir()) == [killed.parents[1]]
    assert len(contents(make_sample(tmp_path, 2, 1))) == 5


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    monkeypatch.delenv('GHOST_DET_CACHE', raising=False)
    assert make_sample(train=1, val=1).parent == tmp_path / 'xdg' / 'ghost_det'
    monkeypatch.setenv('GHOST_DET_CACHE', str(tmp_path / 'own'))
    assert make_sample(train=1, val=1).parent == tmp_path / 'own'
    monkeypatch.delenv('GHOST_DET_CACHE')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert make_sample(train=1, val=1).parent == tmp_path / '.cache' / 'ghost_det'


def test_an_unwritable_cache_is_named_with_the_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / 'file'
    blocked.write_text('')
    with pytest.raises(UserError, match='GHOST_DET_CACHE') as caught:
        make_sample(blocked, 1, 1)
    assert str(blocked) in str(caught.value)
    done = tmp_path / f'sample-v{VERSION}-1-1'
    done.write_text('')
    with pytest.raises(UserError, match='GHOST_DET_CACHE'):
        make_sample(tmp_path, 1, 1)


def test_a_camera_has_one_shape(tmp_path: Path) -> None:
    root = make_sample(tmp_path, 3, 2, one_shape=True)
    for split, count in (('train', 3), ('val', 2)):
        found = load(root, split)
        assert [(each['width'], each['height']) for each in found.imgs.values()] == [(320, 240)] * count
        pictures = [cv2.imread(str(path)) for path in sorted((root / f'{split}2017').iterdir())]
        assert [picture.shape for picture in pictures] == [(240, 320, 3)] * count
        assert found.anns
    assert root != make_sample(tmp_path, 3, 2)

"""The generated sample: that it is what it says, always the same, and never half there."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from ghost_det.data import sample as module
from ghost_det.data.sample import VERSION, make_sample
from ghost_det.data.scene import LONG_SIDE, SHAPES
from ghost_det.errors import UserError

SPLITS = {'train': 40, 'val': 12}
# Without its __init__, as importing the package would take seconds of torch in each process.
CHILD = """
import pathlib, sys, types
package = sys.modules['ghost_det'] = types.ModuleType('ghost_det')
package.__path__ = [sys.argv[1]]
from ghost_det.data.sample import make_sample
make_sample(pathlib.Path(sys.argv[2]), 8, 4)
"""


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp('cache'), *SPLITS.values())


def load(folder: Path, split: str) -> COCO:
    return COCO(str(folder / 'annotations' / f'instances_{split}2017.json'))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_a_change_of_the_drawings_comes_with_a_new_version(made: Path) -> None:
    boxes = [box['bbox'] for box in load(made, 'val').dataset['annotations']]
    assert (VERSION, zlib.crc32(repr(boxes).encode())) == (1, 3132132626), (
        'raise VERSION, or old caches live on'
    )


@pytest.mark.parametrize('split', SPLITS)
def test_annotations_fit_the_images(made: Path, split: str) -> None:
    coco = load(made, split)
    assert [category['name'] for category in coco.loadCats([1, 2, 3, 4, 5, 6])] == list(SHAPES)
    assert len(coco.imgs) == SPLITS[split] == len(list((made / f'{split}2017').iterdir()))
    assert len({box['id'] for box in coco.anns.values()}) == len(coco.dataset['annotations'])
    rings = []
    for image in coco.imgs.values():
        pixels = cv2.imread(str(made / f'{split}2017' / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3) and max(pixels.shape) == LONG_SIDE
        masks = []
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            x, y, width, height = annotation['bbox']
            box = np.array([x, y, x + width, y + height])
            assert 0 <= x < x + width <= image['width'] and 0 <= y < y + height <= image['height']
            points = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation['segmentation']])
            assert np.abs(np.concatenate([points.min(0), points.max(0)]) - box).max() < 0.5
            mask = coco.annToMask(annotation)
            assert 0.85 < mask.sum() / annotation['area'] < 1.1 and annotation['iscrowd'] == 0
            masks.append(mask)
            if annotation['category_id'] == list(SHAPES).index('ring') + 1:
                rings.append(mask.sum() / (width * height))
        # Neighbours may share the pixels that their common edge passes through.
        double = (np.sum(masks, axis=0) > 1).astype(np.uint8)
        assert cv2.erode(double, np.ones((3, 3), np.uint8)).sum() == 0
    assert 0.35 < np.median(rings) < 0.6  # a ring has a hole: about 1 - 0.58² of its ellipse


def test_scales_classes_and_pictures_vary(made: Path) -> None:
    found = [box for split in SPLITS for box in load(made, split).anns.values()]
    sides = np.sqrt([box['bbox'][2] * box['bbox'][3] for box in found])
    assert sides.max() / sides.min() >= 8 and sides.min() > 12 and (sides < 24).mean() <= 0.15
    counts = np.bincount([box['category_id'] for box in found], minlength=7)[1:]
    assert counts.min() > 0.5 * counts.mean()
    pictures = [data for name, data in contents(made).items() if name.endswith('.jpg')]
    assert len({*pictures}) == sum(SPLITS.values())  # none is in both splits
    assert not {*load(made, 'train').imgs} & {*load(made, 'val').imgs}


def test_two_processes_make_the_same_set_which_is_the_beginning_of_a_larger_one(
    made: Path, tmp_path: Path
) -> None:
    command = [sys.executable, '-c', CHILD, str(Path(module.__file__).parents[1]), str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    (root,) = tmp_path.iterdir()
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert make_sample(tmp_path, 8, 4) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before
    few, many = contents(root), contents(made)
    assert len(few) == 14 and all(many[name] == few[name] for name in few if name.endswith('.jpg'))
    for split in SPLITS:
        boxes = load(root, split).dataset['annotations']
        assert boxes == load(made, split).dataset['annotations'][: len(boxes)]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.json, 'dumps', fail)
        make_sample(tmp_path, 2, 1)
    assert not [*tmp_path.iterdir()]
    assert len(contents(make_sample(tmp_path, 2, 1))) == 5


@pytest.mark.parametrize(
    ('variables', 'place'),
    [
        ({'XDG_CACHE_HOME': 'xdg'}, 'xdg/ghost_det'),
        ({'XDG_CACHE_HOME': 'xdg', 'GHOST_DET_CACHE': 'own'}, 'own'),
        ({'HOME': ''}, '.cache/ghost_det'),
    ],
)
def test_where_the_cache_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: str
) -> None:
    for name in ('GHOST_DET_CACHE', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    assert make_sample(train=1, val=1).parent == tmp_path / place


def test_an_unwritable_cache_is_named_with_the_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / 'file'
    blocked.touch()
    (tmp_path / f'sample-v{VERSION}-1-1').touch()
    for root in (blocked, tmp_path):
        with pytest.raises(UserError, match=f'{root}.*GHOST_DET_CACHE'):
            make_sample(root, 1, 1)


def test_a_camera_has_one_shape(tmp_path: Path) -> None:
    root = make_sample(tmp_path, 2, 1, one_shape=True)
    for split in SPLITS:
        found = load(root, split)
        assert {(each['width'], each['height']) for each in found.imgs.values()} == {(320, 240)}
        assert all(cv2.imread(str(p)).shape == (240, 320, 3) for p in (root / f'{split}2017').iterdir())
    assert root != make_sample(tmp_path, 2, 1)

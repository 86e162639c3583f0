"""The fixed copy of a data set."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from ghost_det import check_dataset
from ghost_det.data.checks.fix import to_eight_bits, write_fixed
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError

from .faults import HEIGHT, NAMES, TOGETHER, WIDTH, Folder, kinds, save_tagged

pytestmark = pytest.mark.usefixtures('images_opened_here')


def annotations(fixed: Path) -> dict[str, Any]:
    return json.loads((fixed / 'annotations/instances_train.json').read_text())  # type: ignore[no-any-return]


def fix(folder: Folder) -> list[dict[str, Any]]:
    """Fix a data set, and return the boxes of train."""
    fixed = folder.root.with_name('fixed')
    write_fixed(check_dataset(folder.save()), fixed)
    boxes: list[dict[str, Any]] = annotations(fixed)['annotations']
    assert [box['id'] for box in boxes] == [*range(1, len(boxes) + 1)]
    return boxes


def boxes_of(folder: Folder) -> Any:
    return folder.content['train']['annotations']


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / 'set', train=9, val=3)


TRIANGLES: list[Any] = [[20, 10, 60, 10, 40, 40], [20, 20, 30, 30, 20, 40]]
BOXES: list[tuple[dict[str, Any], tuple[Any, ...]]] = [  # and bbox, area, iscrowd, ignore of the fixed one
    (dict(area=0), ([4, 5, 20, 12], 240, 0, None)),
    (dict(area='12.5', iscrowd='1'), ([4, 5, 20, 12], 12.5, 1, None)),
    (dict(area='much', iscrowd='False', ignore='0'), ([4, 5, 20, 12], 240, 0, 0)),
    (dict(area=math.inf, iscrowd=True, ignore=None), ([4, 5, 20, 12], 240, 1, 0)),
    (dict(bbox=[5, 5, WIDTH, 10], area=77), ([5, 5, WIDTH - 5, 10], 77, 0, None)),  # of a polygon
    (dict(bbox=[5, 15, WIDTH, 10], area=10 * WIDTH), ([5, 15, WIDTH - 5, 10], 10 * (WIDTH - 5), 0, None)),
    (dict(area=700, segmentation=TRIANGLES), ([20, 10, 40, 30], 700, 0, None)),
    (dict(area=9000, segmentation=TRIANGLES), ([20, 10, 40, 30], 1200, 0, None)),
    (dict(segmentation=[*TRIANGLES, [0, 'x', 1, 1, 1, 1]]), ([4, 5, 20, 12], 240, 0, None)),
    (dict(bbox=[30, 30, -20, -10]), ([10, 20, 20, 10], 200, 0, None)),
    (dict(bbox=[4.1, 5.2, 20.3, 12.4], area=9000), ([4.1, 5.2, 20.3, 12.4], 9000, 0, None)),
]


def test_boxes_are_moved_and_get_areas_and_flags(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=len(BOXES), val=3)
    for box, (values, _) in zip(boxes_of(folder), BOXES, strict=True):
        box.update({'bbox': [4, 5, 20, 12], **values})
    report = check_dataset(folder.save())
    assert {finding.kind: finding.count for finding in report.findings} == {
        **{'impossible area': 3, 'number as text': 2, 'crowd box': 2},
        **{'box sticks out': 2, 'box unlike its polygon': 2, 'swapped corners': 1},
    }
    left = 'left out: 1 under 1 px, 1 with an area of 0 or below, 2 crowd'
    assert f'mmdet trains on 7 of 11 boxes; {left}' in str(report)
    for box, (values, expected) in zip(fix(folder), BOXES, strict=True):
        found = (box['bbox'], box['area'], box['iscrowd'], box.get('ignore'))
        assert found == expected and not isinstance(box['iscrowd'], bool), values


def test_where_most_boxes_are_corners_all_are_read_so(folder: Folder) -> None:
    expected = []
    for number, box in enumerate(boxes_of(folder)):
        expected.append([20.0 + number, 16, 30, 20] if number < 8 else [2, 3, 4, 5])
        x, y, width, height = expected[-1]
        box['bbox'] = [x, y, x + width, y + height]
    (error,) = check_dataset(folder.save()).errors
    assert (error.kind, error.count) == ('corners for sizes', 7)
    assert [box['bbox'] for box in fix(folder)] == expected


def test_the_same_box_twice(folder: Folder) -> None:
    boxes = boxes_of(folder)
    crowd = {**boxes[3], 'iscrowd': 1}
    boxes += [boxes[0], {**boxes[0], 'bbox': [*map(float, boxes[0]['bbox'])]}, crowd, crowd]
    boxes += [{**boxes[1], 'category_id': 1 + boxes[1]['category_id'] % 3}, {**boxes[2], 'image_id': 1}]
    boxes[:] = [{**box, 'id': number} for number, box in enumerate(boxes, 1)]
    (finding,) = (f for f in check_dataset(folder.save()).findings if f.kind == 'same box twice')
    assert [place.split()[0] for place in finding.where] == [f'annotations[{n}]' for n in (9, 10, 12)]
    assert len(fix(folder)) == 12


def test_images_of_one_file_and_categories_of_one_name_become_one(folder: Folder) -> None:
    TOGETHER['duplicate file name'](folder)
    TOGETHER['duplicate category name'](folder)
    boxes = fix(folder)
    fixed = annotations(folder.root.with_name('fixed'))
    assert [category['name'] for category in fixed['categories']] == list(NAMES)
    assert [image['id'] for image in fixed['images']] == [1, *range(3, 10)]
    assert [box['image_id'] for box in boxes][:3] == [1, 1, 3] and boxes[-1]['category_id'] == 1


def test_a_box_without_bbox_takes_the_extent_of_its_outline(folder: Folder) -> None:
    pixels = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    pixels[:, 7, 10] = pixels[:, 20:23, 9] = pixels[0, 12:, 12] = pixels[1, 5:, 12] = 1
    pixels[1, 0, 13] = 1  # the run of the column before continues
    codes = [mask.encode(np.asfortranarray(each)) for each in pixels]
    runs = np.flatnonzero(np.diff(pixels[0].T.ravel(), prepend=0, append=0))
    counts = np.diff(runs, prepend=0, append=pixels[0].size).tolist()
    outlines: list[Any] = [{**code, 'counts': code['counts'].decode()} for code in codes]
    outlines += [{'size': [HEIGHT, WIDTH], 'counts': counts}, {'size': [4, 4], 'counts': '1'}]
    for box, outline in zip(boxes_of(folder), [*outlines, [[10, 10, 30, 12, 20, 30], [5, 15, 6, 15, 6, 16]]]):
        del box['bbox'], box['area']
        box['segmentation'] = outline
    counted = {finding.kind: finding.count for finding in check_dataset(folder.save()).errors}
    assert counted == {'no bbox': 4, 'wrong entry': 1}  # the broken code
    boxes = [box for box in fix(folder) if 'segmentation' in box]
    extents = [mask.toBbox(code).tolist() for code in codes]
    assert [box['bbox'] for box in boxes] == [*extents, extents[0], [5, 10, 25, 20]]
    assert all(box['area'] == box['bbox'][2] * box['bbox'][3] for box in boxes)


@pytest.mark.parametrize(
    ('kind', 'change'),
    [
        ('image without size', None),
        *(('image without size', change) for change in (str, float, lambda size: 0)),
        *(('id as text', change) for change in (str, 'x{}'.format)),
    ],
)
def test_sizes_and_ids_of_another_form(folder: Folder, kind: str, change: Any) -> None:
    expected = [(f'{b["image_id"]:04d}.jpg', b['category_id'], b['bbox']) for b in boxes_of(folder)]
    fields = {'images': ['id'], 'categories': ['id'], 'annotations': ['image_id', 'category_id']}
    if kind == 'image without size':
        fields = {'images': ['width', 'height']}
    for content in folder.content.values():
        for key, names in fields.items():
            for entry, name in itertools.product(content[key], names):
                value = entry.pop(name)
                if change:
                    entry[name] = change(value)
    report = check_dataset(folder.save())
    assert {each.kind for each in report.errors} == {kind}
    with pytest.raises(UserError, match=f'(?s)train: {kind} .*--fix'):
        find_data(folder.root)
    boxes = fix(folder)
    fixed = annotations(folder.root.with_name('fixed'))
    files = {image['id']: image['file_name'] for image in fixed['images']}
    labels = {category['id']: 1 + NAMES.index(category['name']) for category in fixed['categories']}
    assert [(files[b['image_id']], labels[b['category_id']], b['bbox']) for b in boxes] == expected
    assert check_dataset(folder.root.with_name('fixed')).findings == []


def test_deep_values_in_eight_bits() -> None:
    for pixels, expected in (
        (np.float32([[0, 0.5, 1, math.nan]]), [[0, 128, 255, 0]]),
        (np.float64([[0, 100.4, 255]]), [[0, 100, 255]]),
        (np.float32([[0, 1000]]), [[0, 250]]),
        (np.int32([[-5, 200]]), [[0, 200]]),
        (np.uint16([[16, 4095]]), [[1, 255]]),
    ):
        assert to_eight_bits(pixels).tolist() == expected


@pytest.mark.parametrize('name', ['a.jpg', 'a.tif', 'a.webp', 'xmp.jpg', 'xmp.tif'])
def test_tagged_images_are_turned_as_their_boxes(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path / 'set', train=16, val=2)
    expected = {}
    for number in range(16):
        image, _, path = folder.take()
        picture = Image.open(path).convert('RGB')
        orientation = number // 2 + 1
        tagged = save_tagged(picture, path.with_name(name), orientation)
        loaded = mmcv.imfrombytes(tagged.read_bytes())
        tagged.rename(folder.rename(image, path, tagged.suffix))
        upright = mmcv.imread(str(save_tagged(picture, tmp_path / 'upright.jpg', orientation)))
        size = (WIDTH, HEIGHT) if number % 2 or orientation < 5 else (HEIGHT, WIDTH)
        image.update(width=size[0], height=size[1])
        forms = (loaded, upright, np.asarray(picture)[..., ::-1])
        fitting = next(each for each in forms if each.shape[1::-1] == size)
        expected[image['file_name']] = fitting.astype(float)
    fix(folder)
    for file, pixels in expected.items():
        fixed = mmcv.imread(str(tmp_path / 'fixed/train' / file))
        assert fixed.shape == pixels.shape and np.abs(fixed - pixels).mean() < 6, file
    left = kinds(check_dataset(tmp_path / 'fixed'))
    assert not left & {'wrong size', 'EXIF rotation', 'EXIF against boxes'}


def test_deep_images_and_cmyk_become_8_bit_rgb(folder: Folder) -> None:
    for kind in ('16-bit image', 'CMYK image'):
        TOGETHER[kind](folder)
    floats = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)
    image, _, path = folder.take()
    cv2.imwrite(str(folder.rename(image, path, '.tif')), floats, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    fix(folder)
    old, new = folder.root / 'train2017', folder.root.with_name('fixed') / 'train'
    assert mmcv.imread(str(old / '0001.png')).max() < 16 < 127 < mmcv.imread(str(new / '0001.png')).max()
    assert Image.open(new / '0002.jpg').mode == 'RGB'
    difference = mmcv.imread(str(old / '0002.jpg')).astype(float) - mmcv.imread(str(new / '0002.jpg'))
    assert np.abs(difference).mean() < 3
    np.testing.assert_array_equal(mmcv.imread(str(new / '0003.tif')), floats)


@pytest.mark.parametrize('kind', ['missing file', 'unknown category'])
def test_a_copy_that_would_lose_most_is_refused(folder: Folder, kind: str) -> None:
    for _ in range(4):
        TOGETHER[kind](folder)
    assert len(fix(folder)) == 5
    TOGETHER[kind](folder)
    with pytest.raises(UserError, match='5 of 9 .* of train would be dropped'):
        write_fixed(check_dataset(folder.save()), folder.root.with_name('other'))
    assert sorted(path.name for path in folder.root.parent.iterdir()) == ['fixed', 'set']


def test_the_copy_is_refused_where_it_could_hurt(folder: Folder, tmp_path: Path) -> None:
    report = check_dataset(folder.save())
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').touch()
    for out in ('set/train2017/out', 'set/annotations', '.', 'full', 'full/file', 'full/file/out'):
        with pytest.raises(UserError, match=f'^--fix {tmp_path / out}'):
            write_fixed(report, tmp_path / out)
    with pytest.raises(UserError, match='nothing to write'):
        write_fixed(replace(report, parts=[]), tmp_path / 'empty')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['full', 'set']
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to('empty')
    write_fixed(report, tmp_path / 'link')
    assert check_dataset(tmp_path / 'empty').findings == []


def test_file_names_cannot_lead_out_of_the_copy(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'a/set', train=4, val=3)
    for name in ('../../escaped.jpg', 'escaped.jpg'):
        image, _, path = folder.take()
        path.rename(path.parent / name)
        image['file_name'] = name
    write_fixed(check_dataset(folder.save()), tmp_path / 'b/c/fixed')
    assert sorted(p.name for p in tmp_path.glob('b/c/fixed/train/*escaped*')) == [
        '_escaped.jpg',
        'escaped.jpg',
    ]
    assert len([*(tmp_path / 'b').rglob('*escaped*')]) == 2
    assert check_dataset(tmp_path / 'b/c/fixed').findings == []

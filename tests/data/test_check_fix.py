"""The fixed copy of a data set."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from ghost_det import check_dataset
from ghost_det.commands import check_data
from ghost_det.data.checks.fix import write_fixed
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError

from .faults import ALONE, HEIGHT, NAMES, TOGETHER, WIDTH, Folder, kinds, save_tagged

pytestmark = pytest.mark.usefixtures('images_opened_here')


def annotations(fixed: Path, split: str = 'train') -> dict[str, Any]:
    content: dict[str, Any] = json.loads((fixed / f'annotations/instances_{split}.json').read_text())
    return content


def test_fixed_values_are_those_that_were_meant(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=8, val=3)
    boxes = folder.content['train']['annotations']
    boxes[0].update(area=0)
    boxes[1].update(area='12.5', iscrowd='1')
    boxes[2].update(area='much', iscrowd='False', ignore='0')
    boxes[3].update(area=math.inf, iscrowd=True, ignore=None)
    report = check_dataset(folder.save())
    counts = {finding.kind: finding.count for finding in report.findings}
    assert counts == {'impossible area': 3, 'number as text': 2, 'crowd box': 2}
    assert 'mmdet trains on 5 of 8 boxes; left out: 1 with an area of 0 or below, 2 crowd' in str(report)
    assert 'train: 4 areas or flags corrected' in write_fixed(report, tmp_path / 'fixed')
    fixed = [
        tuple(box.get(key) for key in ('area', 'iscrowd', 'ignore'))
        for box in annotations(tmp_path / 'fixed')['annotations'][:4]
    ]
    assert repr(fixed) == '[(240, 0, None), (12.5, 1, None), (240, 0, 0), (240, 1, 0)]'


def test_boxes_that_are_all_corners_are_turned(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=9)
    wanted = []
    for number, box in enumerate(folder.content['train']['annotations']):
        wanted.append([20.0 + number, 16, 30, 20])
        box['bbox'] = [20.0 + number, 16, 50.0 + number, 36]
    report = check_dataset(folder.save())
    assert [f.kind for f in report.errors] == ['corners for sizes']
    write_fixed(report, tmp_path / 'fixed')
    content = annotations(tmp_path / 'fixed')
    assert [box['bbox'] for box in content['annotations']] == wanted


def test_boxes_that_are_not_around_their_polygons(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=5, val=2)
    boxes = folder.content['train']['annotations']
    for box in boxes[1:]:
        box.update(
            bbox=[10, 5, 20, 10], area=700, segmentation=[[20, 10, 60, 10, 40, 40], [20, 20, 30, 30, 20, 40]]
        )
    boxes[4]['segmentation'].append([0, 'x', 1, 1, 1, 1])  # the others are checked all the same
    report = check_dataset(folder.save())
    (finding,) = report.errors
    assert (finding.kind, finding.count) == ('box unlike its polygon', 3)
    with pytest.raises(
        UserError, match=r'(?s)bbox \[10, 5, 20, 10\], its polygon spans \[20, 10, 40, 30\].* --fix redraws'
    ):
        find_data(folder.root)
    write_fixed(report, tmp_path / 'fixed')
    content = annotations(tmp_path / 'fixed')
    fixed = [(box['bbox'], box['area']) for box in content['annotations']]
    assert fixed[1:4] == [([20, 10, 40, 30], 700)] * 3 and fixed[4][0] == [10, 5, 20, 10]


def test_a_box_that_is_clipped_keeps_the_area_of_its_polygon(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=3, val=3)
    image = folder.content['train']['images'][0]
    box, other = folder.content['train']['annotations'][:2]
    box.update(image_id=image['id'], bbox=[5, 5, image['width'], 10], area=77)
    other.update(image_id=image['id'], bbox=[5, 15, image['width'], 10], area=10 * image['width'])
    write_fixed(check_dataset(folder.save()), tmp_path / 'fixed')
    content = annotations(tmp_path / 'fixed')
    width = image['width'] - 5
    assert [(each['bbox'], each['area']) for each in content['annotations'][:2]] == [
        ([5, 5, width, 10], 77),
        ([5, 15, width, 10], 10 * width),
    ]


def test_the_same_box_twice(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=6, val=2)
    boxes = folder.content['train']['annotations']
    crowd = {**boxes[3], 'iscrowd': 1}
    boxes += [
        boxes[0], {**boxes[0], 'bbox': [float(number) for number in boxes[0]['bbox']]}, crowd, crowd,
        {**boxes[1], 'category_id': 1 + boxes[1]['category_id'] % 3}, {**boxes[2], 'image_id': 1},
    ]  # fmt: skip
    boxes[:] = [{**box, 'id': number} for number, box in enumerate(boxes, 1)]
    report = check_dataset(folder.save())
    (finding,) = (each for each in report.findings if each.kind == 'same box twice')
    assert (finding.severity, finding.count) == ('warning', 3)
    assert [place.split()[0] for place in finding.where] == [
        'annotations[6]',
        'annotations[7]',
        'annotations[9]',
    ]
    assert 'train: 3 repeated boxes dropped' in write_fixed(report, tmp_path / 'fixed')
    assert 'same box twice' not in kinds(check_dataset(tmp_path / 'fixed'))
    content = annotations(tmp_path / 'fixed')
    assert len(content['annotations']) == 9


@pytest.mark.parametrize('form', ['polygon', 'counts', 'compressed', 'whole'])
def test_a_box_without_bbox_takes_the_extent_of_its_outline(tmp_path: Path, form: str) -> None:
    from pycocotools import mask

    folder = Folder(tmp_path / 'set', train=4, val=3)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    pixels[7, 10] = pixels[20:23, 9] = pixels[5 if form == 'whole' else 12 :, 12] = 1
    pixels[: 1 if form == 'whole' else 0, 13] = 1  # goes on from the foot of the column before
    code = mask.encode(pixels)
    expected = mask.toBbox(code).tolist()
    runs = np.flatnonzero(np.diff(pixels.T.ravel(), prepend=0, append=0))
    counts = np.diff(runs, prepend=0, append=pixels.size).tolist()
    outline: Any = {
        'size': [HEIGHT, WIDTH],
        'counts': counts if form == 'counts' else code['counts'].decode(),
    }
    if form == 'polygon':
        outline, expected = [[10, 10, 30, 12, 20, 30], [5, 15, 6, 15, 6, 16]], [5, 10, 25, 20]
    box = folder.content['train']['annotations'][1]
    del box['bbox'], box['area']
    box['segmentation'] = outline
    folder.content['train']['annotations'][2].update(bbox=None, segmentation={'size': [4, 4], 'counts': '1'})
    report = check_dataset(folder.save())
    (found,) = (f for f in report.findings if f.kind == 'no bbox')
    assert found.severity == 'error' and found.count == 1
    assert 'wrong entry' in kinds(report)  # the broken code
    write_fixed(report, tmp_path / 'fixed')
    fixed = annotations(tmp_path / 'fixed')['annotations']
    assert [each['bbox'] for each in fixed if 'segmentation' in each] == [expected]
    assert all(each['area'] == each['bbox'][2] * each['bbox'][3] for each in fixed)


@pytest.mark.parametrize('form', ['missing', 'floats', 'texts', 'zero', 'ids as texts', 'ids as names'])
def test_sizes_and_ids_of_another_form_are_fixed(tmp_path: Path, form: str) -> None:
    folder = Folder(tmp_path / 'set', train=6, val=3)
    wanted = {split: json.loads(json.dumps(content)) for split, content in folder.content.items()}
    for content in folder.content.values():
        for image in content['images']:
            for field in ('width', 'height'):
                size = image.pop(field)
                if form != 'missing':
                    image[field] = {'floats': float, 'texts': str, 'zero': lambda _: 0}.get(form, int)(size)
        fields = {'images': ['id'], 'categories': ['id'], 'annotations': ['image_id', 'category_id']}
        for entry, field in ((e, field) for key in fields for e in content[key] for field in fields[key]):
            if form.startswith('ids'):
                entry[field] = f'{"x" * (form == "ids as names")}{entry[field]}'
    report = check_dataset(folder.save())
    assert ('left out: 6 in images without a size' in str(report)) == (form in ('missing', 'zero'))
    kind = 'id as text' if form.startswith('ids') else 'image without size'
    with pytest.raises(UserError, match=f'(?s)train: {kind} .*--fix'):
        find_data(folder.root)
    lines = write_fixed(report, tmp_path / 'fixed')
    assert any('ids as text' in line or 'sizes' in line for line in lines)
    assert {each.kind for each in report.errors} == {kind}
    assert check_dataset(tmp_path / 'fixed').findings == []
    for split, content in wanted.items():
        fixed = annotations(tmp_path / 'fixed', split)
        files = {image['id']: image['file_name'] for image in fixed['images']}
        names = {category['id']: category['name'] for category in fixed['categories']}
        assert [(i['width'], i['height']) for i in fixed['images']] == [(WIDTH, HEIGHT)] * len(files)
        assert [(files[b['image_id']], names[b['category_id']], b['bbox']) for b in fixed['annotations']] == [
            (f'{b["image_id"]:04d}.jpg', NAMES[b['category_id'] - 1], b['bbox'])
            for b in content['annotations']
        ]


@pytest.mark.parametrize(('kind', 'channels'), [('float32', 3), ('float64', 1), ('int32', 1), ('int32', 3)])
def test_32_bit_images_are_errors_and_fixed(tmp_path: Path, kind: str, channels: int) -> None:
    folder = Folder(tmp_path / 'set', train=3, val=2)
    image, _, path = folder.take()
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, channels)).astype(kind)
    cv2.imwrite(str(folder.rename(image, path, '.tif')), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    report = check_dataset(folder.save())
    assert [finding.kind for finding in report.errors] == ['32-bit image']
    write_fixed(report, tmp_path / 'fixed')
    assert check_dataset(tmp_path / 'fixed').errors == []
    fixed = mmcv.imread(str(tmp_path / 'fixed/train' / image['file_name']))
    np.testing.assert_array_equal(fixed, np.broadcast_to(pixels, fixed.shape))


@pytest.mark.parametrize(
    'name', ['a.jpg', 'a.png', 'a.tif', 'a.webp', 'a.avif', 'xmp.jpg', 'xmp.webp', 'xmp.tif']
)
def test_tagged_images_are_fixed_as_their_boxes_are_meant(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path / 'set', train=16, val=2)
    expected = {}
    for number in range(16):
        image, _, path = folder.take()
        picture = Image.open(path).convert('RGB')
        path.unlink()
        image['file_name'] = f'{number}{Path(name).suffix}'
        orientation = number // 2 + 1
        path = save_tagged(picture, path.with_name(name), orientation)
        loaded = mmcv.imfrombytes(path.read_bytes())
        path.rename(path.with_name(image['file_name']))
        save_tagged(picture, tmp_path / 'upright.jpg', orientation)
        upright = mmcv.imread(str(tmp_path / 'upright.jpg'))
        size = (WIDTH, HEIGHT) if number % 2 or orientation < 5 else (HEIGHT, WIDTH)
        image.update(width=size[0], height=size[1])
        others = (upright, np.asarray(picture)[..., ::-1])
        fits = [each for each in (loaded, *others) if each.shape[1::-1] == size]
        expected[image['file_name']] = fits[0].astype(float)
    write_fixed(check_dataset(folder.save()), tmp_path / 'fixed')
    for file, pixels in expected.items():
        fixed = mmcv.imread(str(tmp_path / 'fixed/train' / file))
        assert fixed.shape == pixels.shape and np.abs(fixed - pixels).mean() < 6, file
    left = kinds(check_dataset(tmp_path / 'fixed'))
    assert not left & {'wrong size', 'EXIF rotation', 'EXIF against boxes'}


def test_fixed_images_are_seen_by_mmcv_as_their_boxes_are_meant(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=9)
    for kind in ('EXIF rotation', 'EXIF against boxes', '16-bit image', 'CMYK image'):
        TOGETHER[kind](folder)
    root = folder.save()
    write_fixed(check_dataset(root), tmp_path / 'fixed')
    old, new = root / 'train2017', tmp_path / 'fixed/train'

    def distance(first: Any, second: Any) -> float:
        return float(np.abs(first.astype(float) - second).mean())

    turned, plain = (mmcv.imread(str(new / f'000{n}.jpg')) for n in (1, 2))
    assert distance(mmcv.imread(str(old / '0001.jpg')), turned) < 3
    assert plain.shape == (HEIGHT, WIDTH, 3)
    assert distance(mmcv.imread(str(old / '0002.jpg'), flag='color_ignore_orientation'), plain) < 3
    dark, light = (mmcv.imread(str(each / '0003.png')) for each in (old, new))
    assert dark.max() < 16 and light.max() > 127
    assert Image.open(new / '0004.jpg').mode == 'RGB'


@pytest.mark.parametrize('what', ['images', 'boxes'])
def test_a_copy_that_would_lose_most_is_refused(tmp_path: Path, what: str) -> None:
    folder = Folder(tmp_path / 'set', train=9, val=3)
    for _ in range(5):
        _, box, path = folder.take()
        path.unlink() if what == 'images' else box.update(category_id=77)
    report = check_dataset(folder.save())
    reason = 'missing file' if what == 'images' else 'unknown category'
    with pytest.raises(UserError, match=f'(?s)5 of 9 {what} of train would be dropped.*{reason} .5.'):
        write_fixed(report, tmp_path / 'fixed')
    assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_the_copy_is_refused_where_it_could_hurt(tmp_path: Path) -> None:
    root = Folder(tmp_path / 'set', train=4, val=3).save()
    report = check_dataset(root)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').touch()
    for out, message in (
        (root / 'train2017/out', 'lies in the data set'),
        (root / 'annotations', 'lies in the data set'),
        (tmp_path, 'or contains it'),
        (tmp_path / 'full', 'not an empty folder'),
        (tmp_path / 'full/file', 'not an empty folder'),
    ):
        with pytest.raises(UserError, match=message):
            write_fixed(report, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['full', 'set']


def test_names_of_files_cannot_lead_out_of_the_copy(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'a/set', train=4, val=3)
    image, _, path = folder.take()
    path.rename(tmp_path / 'a/escaped.jpg')
    image['file_name'] = '../../escaped.jpg'
    other, _, path = folder.take()
    path.rename(path.with_name('escaped.jpg'))
    other['file_name'] = 'escaped.jpg'
    write_fixed(check_dataset(folder.save()), tmp_path / 'b/c/fixed')
    assert sorted(p.name for p in (tmp_path / 'b').rglob('*escaped*')) == ['_escaped.jpg', 'escaped.jpg']
    assert all(p.parent.name == 'train' for p in (tmp_path / 'b').rglob('*escaped*'))
    assert check_dataset(tmp_path / 'b/c/fixed').findings == []


def test_errors_that_a_fix_leaves_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    ALONE['no boxes'](folder)
    monkeypatch.setattr(sys, 'argv', ['check_data', str(folder.save()), '--fix', str(tmp_path / 'fixed')])
    with pytest.raises(SystemExit):
        check_data.main()
    printed = capsys.readouterr().out
    assert 'errors left in it:\ntrain: no boxes (1): it has none' in printed
    assert 'Finding(' not in printed

"""Each kind of problem in a folder of its own, all in one folder, what is fixed, and what is reported."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from ghost_det import check_dataset
from ghost_det.commands import check_data
from ghost_det.config.load import load_config
from ghost_det.data.checks.check import Report
from ghost_det.data.checks.fix import write_fixed
from ghost_det.data.checks.images import open_images
from ghost_det.data.checks.pixels import to_eight_bits
from ghost_det.data.checks.report import render
from ghost_det.data.convert import _size
from ghost_det.data.dataset import find_data
from ghost_det.data.findings import KINDS
from ghost_det.engine.messages import NamedCompose
from ghost_det.errors import UserError
from ghost_det.utils.images import read_image
from tests.conftest import ROOT

from .faults import BESIDES, HEIGHT, NAMES, TOGETHER, WIDTH, Folder

# Kinds that leave no room for others in the split, and where they are tested.
ALONE = {'wrong json', 'empty split', 'missing split', 'no boxes'}
OF_CONFIG = {'class name in config', 'class order in config', 'CLASSES in config', 'classes is a text'}
OF_CONFIG |= {'num_classes', 'few anchors fit'}
OF_LABELS = {'turned boxes', 'wrong label file', 'label file without image', 'image without labels'}
OF_FOLDERS = {'val was chosen', 'wrong image folder', 'data not used'}  # in test_layouts.py
IN_QUICK = set(TOGETHER) - {
    'unreadable image', 'wrong size', 'EXIF rotation', 'EXIF against boxes', 'grey image', 'image with alpha',
    '16-bit image', '32-bit image', 'CMYK image', 'huge image', 'same image twice', 'image in both splits',
}  # fmt: skip


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def tree(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob('*'))
        if p.is_file()
    }


def faulty(root: Path) -> Path:
    """A folder with one of each fault that can be there together."""
    folder = Folder(root, train=60)
    for put in TOGETHER.values():
        put(folder)
    return folder.save()


def test_every_kind_is_tested() -> None:
    assert set(TOGETHER) | ALONE | OF_CONFIG | OF_LABELS | OF_FOLDERS == set(KINDS)


def test_every_kind_is_in_the_docs() -> None:
    page = (ROOT / 'docs/data.md').read_text()
    lost = [k for k, v in KINDS.items() if f'| {k} | {v.severity} | {v.why} | {v.fix} |' not in page]
    assert not lost


def test_nothing_is_found_in_a_sound_folder(tmp_path: Path) -> None:
    report = check_dataset(Folder(tmp_path / 'set').save())
    assert report.findings == [] and str(report).endswith('found: nothing')


@pytest.mark.parametrize('kind', TOGETHER)
def test_each_fault_is_found_alone_and_fixed(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=9, val=3)
    TOGETHER[kind](folder)
    before = tree(folder.save())
    report = check_dataset(folder.root, jobs=1)
    assert kinds(report) == {kind} | BESIDES.get(kind, set()), str(report)
    assert all(f.count == 1 for f in report.findings if f.kind == kind) or kind == 'classes differ'
    assert kind in kinds(check_dataset(folder.root, quick=True)) or kind not in IN_QUICK
    write_fixed(report, tmp_path / 'fixed')
    assert tree(folder.root) == before
    after = check_dataset(tmp_path / 'fixed', jobs=1)
    assert after.errors == [], str(after)


def test_one_folder_with_one_of_each(tmp_path: Path) -> None:
    root = faulty(tmp_path / 'set')
    before = tree(root)
    report = check_dataset(root)
    print(report)
    missed = set(TOGETHER) - kinds(report)
    print(f'{len(TOGETHER) - len(missed)} of {len(TOGETHER)} kinds found')
    assert not missed
    assert IN_QUICK <= kinds(check_dataset(root, quick=True))
    changes = write_fixed(report, tmp_path / 'fixed')
    print('\n'.join(changes))
    assert any('clipped' in line for line in changes)
    assert tree(root) == before
    after = check_dataset(tmp_path / 'fixed')
    assert after.errors == [], str(after)
    for name, content in before.items():  # what was not to be changed is the same file
        twin = tmp_path / 'fixed' / name.replace('2017', '')
        if name.endswith('0060.jpg'):
            assert hashlib.sha256(twin.read_bytes()).hexdigest() == content


def test_hostile_entries_are_named_and_fixed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=16)
    content = folder.content['train']
    for name in ('\x1b[2Jgone.jpg', 'a\ud800.jpg', 'x' * 5000, '../' * 50 + 'etc/passwd', '/'):
        folder.take()[0]['file_name'] = name
    content['annotations'][5].update(id=[], area='much', iscrowd={})
    content['annotations'][6]['bbox'] = [10**400, 1, 2, 3]
    content['annotations'][7]['area'] = math.nan
    content['images'] += [None, 3, {'id': 2**80, 'file_name': 'x', 'width': 1, 'height': 1}]
    content['categories'][0]['supercategory'] = ['list']
    content['categories'].append({'id': 9, 'name': ''})
    content['info'] = 3
    report = check_dataset(folder.save())
    text = str(report)
    assert '\x1b' not in text and r'\x1b[2Jgone.jpg' in text
    text.encode()
    (lost,) = (f for f in report.findings if f.kind == 'missing file')
    (wrong,) = (f for f in report.findings if f.kind == 'wrong entry')
    (infinite,) = (f for f in report.findings if f.kind == 'box not finite')
    assert (lost.count, wrong.count, infinite.count) == (4, 5, 1)  # /etc/passwd is there, and no image
    assert 'train: 5 invalid entries dropped' in write_fixed(report, tmp_path / 'fixed')
    assert check_dataset(tmp_path / 'fixed').errors == []
    with pytest.raises(UserError, match='wrong entry'):
        find_data(folder.root)


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
    text = (tmp_path / 'fixed/annotations/instances_train.json').read_text()
    fixed = [
        tuple(box.get(key) for key in ('area', 'iscrowd', 'ignore'))
        for box in json.loads(text)['annotations'][:4]
    ]
    assert repr(fixed) == '[(240, 0, None), (12.5, 1, None), (240, 0, 0), (240, 1, 0)]'


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
def test_a_split_with_nothing_to_learn_from_is_refused(tmp_path: Path, flag: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    for box in folder.content['train']['annotations']:
        box[flag] = '1'
    assert 'all of its boxes are crowds or have ignore' in str(check_dataset(folder.save()).errors)
    with pytest.raises(UserError, match='all of its boxes are crowds or have ignore; nothing to learn from'):
        find_data(folder.root)


def alone(kind: str, folder: Folder) -> None:
    train = folder.content['train']
    if kind == 'wrong json':
        folder.content['train'] = Text('{"images": [],\n"annotations": [,]}')
    elif kind == 'empty split':
        train['images'], train['annotations'] = [], []
    elif kind == 'no boxes':
        train['annotations'] = []
    elif kind == 'missing split':
        del folder.content['train']  # a val would be made


class Text(str):
    def pop(self, *_: object) -> None:
        """As of a dictionary without the key."""


@pytest.mark.parametrize('kind', sorted(ALONE))
def test_faults_of_a_whole_split(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    alone(kind, folder)
    report = check_dataset(folder.save())
    assert kind in kinds(report), str(report)
    if kind == 'wrong json':
        assert 'in line 2' in str(report)
    if kind != 'missing split':
        with pytest.raises(UserError):
            find_data(folder.root)


def test_places_are_positions_and_files_and_only_ten_are_shown(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set')
    for box in folder.content['train']['annotations'][17:30]:
        box['bbox'] = [1, 2, -3, 4]
    (finding,) = check_dataset(folder.save(), quick=True).findings
    assert finding.count == 13 and len(finding.where) == 10
    assert finding.where[0] == 'annotations[17] (0018.jpg): bbox [1, 2, -3, 4] in 64 x 48'


def test_boxes_that_are_all_corners_are_turned(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=9)
    wanted = []
    for number, box in enumerate(folder.content['train']['annotations']):
        wanted.append([20.0 + number, 16, 30, 20])
        box['bbox'] = [20.0 + number, 16, 50.0 + number, 36]
    report = check_dataset(folder.save())
    assert [f.kind for f in report.errors] == ['corners for sizes']
    write_fixed(report, tmp_path / 'fixed')
    content = json.loads((tmp_path / 'fixed/annotations/instances_train.json').read_text())
    assert [box['bbox'] for box in content['annotations']] == wanted


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/>'
    '</rdf:RDF></x:xmpmeta>'
)
TAGGED = (
    'a.jpg',
    'a.mpo',
    'a.png',
    'a.tif',
    'a.webp',
    'a.avif',
    'xmp.jpg',
    'xmp.webp',
    'xmp.tif',
    'a.bmp',
    'a.gif',
)


def save_tagged(picture: Image.Image, path: Path, orientation: int) -> Path:
    tag = Image.Exif()
    tag[0x0112] = orientation
    options: dict[str, Any] = {'exif': tag}
    if path.name.startswith('xmp'):
        xmp = XMP.format(orientation).encode()
        options = {'tiffinfo': {700: xmp}} if path.suffix == '.tif' else {'xmp': xmp}
    elif path.suffix in ('.bmp', '.gif'):
        options = {}  # they have no place for it
    picture.save(path, lossless=True, **options)
    return path


@pytest.mark.parametrize('name', TAGGED)
def test_sizes_and_pixels_are_those_that_mmcv_loads(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)).resize((64, 48))
    for orientation in range(1, 9):
        path = save_tagged(picture, tmp_path / name, orientation)
        loaded = mmcv.imfrombytes(path.read_bytes())  # as LoadImageFromFile does
        (facts,) = open_images([path], 1)
        assert _size(path)[0] == tuple(facts['loaded']) == loaded.shape[1::-1], orientation
        np.testing.assert_array_equal(read_image(path), loaded)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp'])
@pytest.mark.parametrize('exif', [b'Exif\0\0garbage', b'Exif\0\0II', b'Exif\0\0II*\0\xff\xff\xff\x7f'])
def test_images_with_damaged_exif_are_read(tmp_path: Path, suffix: str, exif: bytes) -> None:
    path = tmp_path / f'a{suffix}'
    Image.new('RGB', (64, 48)).save(path, exif=exif)
    (facts,) = open_images([path], 1)
    assert 'error' not in facts and _size(path) == ((64, 48), 1) and facts['loaded'] == [64, 48]
    assert mmcv.imfrombytes(path.read_bytes()).shape == (48, 64, 3)


@pytest.mark.parametrize('name', [name for name in TAGGED if name[-3:] not in ('mpo', 'bmp', 'gif')])
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
    write_fixed(check_dataset(folder.save(), jobs=1), tmp_path / 'fixed')
    for file, pixels in expected.items():
        fixed = mmcv.imread(str(tmp_path / 'fixed/train' / file))
        assert fixed.shape == pixels.shape and np.abs(fixed - pixels).mean() < 6, file
    left = kinds(check_dataset(tmp_path / 'fixed', jobs=1))
    assert not left & {'wrong size', 'EXIF rotation', 'EXIF against boxes'}


def test_images_that_only_pillow_decodes_are_errors(tmp_path: Path) -> None:
    picture = Image.new('RGB', (64, 48))
    picture.save(tmp_path / '0.tif', compression='zstd')
    picture.convert('CMYK').save(tmp_path / '1.jp2')
    picture.save(tmp_path / '2.tif', compression='tiff_lzw')
    paths = sorted(tmp_path.iterdir())
    found = [each.get('error', '') for each in open_images(paths, 1)]
    assert found[0].startswith('OpenCV cannot decode this TIFF') and 'JPEG2000' in found[1] and not found[2]
    assert [mmcv.imfrombytes(path.read_bytes()) is None for path in paths] == [True, True, False]


@pytest.mark.parametrize(
    ('pixels', 'expected'),
    [
        (np.float32([[0, 0.5, 1, math.nan]]), [[0, 128, 255, 0]]),
        (np.float64([[0, 100.4, 255]]), [[0, 100, 255]]),
        (np.float32([[0, 1000]]), [[0, 250]]),
        (np.float32([[-1, 0, 1]]), [[0, 128, 255]]),
        (np.int32([[0, 200]]), [[0, 200]]),
        (np.int32([[-5, -5]]), [[0, 0]]),
        (np.uint16([[16, 4095]]), [[1, 255]]),
    ],
)
def test_values_of_deep_images_in_to_eight_bits(pixels: Any, expected: list[list[int]]) -> None:
    assert to_eight_bits(pixels).tolist() == expected


@pytest.mark.parametrize('kind', ['float32', 'float64', 'int32'])
@pytest.mark.parametrize('channels', [1, 3])
def test_32_bit_images_are_errors_and_fixed(tmp_path: Path, kind: str, channels: int) -> None:
    folder = Folder(tmp_path / 'set', train=3, val=2)
    image, _, path = folder.take()
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, channels)).astype(kind)
    cv2.imwrite(str(folder.rename(image, path, '.tif')), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    report = check_dataset(folder.save(), jobs=1)
    assert [finding.kind for finding in report.errors] == ['32-bit image']
    write_fixed(report, tmp_path / 'fixed')
    assert check_dataset(tmp_path / 'fixed', jobs=1).errors == []
    fixed = mmcv.imread(str(tmp_path / 'fixed/train' / image['file_name']))
    np.testing.assert_array_equal(fixed, np.broadcast_to(pixels, fixed.shape))


RIGHT_POLYGONS: dict[str, Any] = {
    'none': [],
    'run lengths': {'counts': [9, 3], 'size': [48, 64]},
    'the same': [[4, 5, 24, 5, 24, 17, 4, 17]],
    'two parts': [[4, 5, 10, 5, 10, 8], [20, 10, 24, 12, 20, 17]],
    'rounded': [[4.4, 5.4, 23.6, 16.6, 8, 9]],
    'of pixel centres': [[4, 5, 23, 5, 23, 16, 4, 16]],
    'a line': [[1, 1, 1, 1, 1, 30]],
    'two corners': [[40, 30, 60, 40]],
    'not a list of lists': [40, 30, 60, 40, 50, 10],
    'no numbers': [['a', None, 60, 40, 50, 10]],
    'too large a number': [[10**400, 1, 60, 40, 50, 10]],
}


@pytest.mark.parametrize('case', RIGHT_POLYGONS)
def test_boxes_that_fit_their_polygons(tmp_path: Path, case: str) -> None:
    folder = Folder(tmp_path / 'set', train=5, val=3)
    folder.content['train']['annotations'][0].update(bbox=[4, 5, 20, 12], segmentation=RIGHT_POLYGONS[case])
    folder.content['train']['annotations'][1].update(
        bbox=[44, 5, 20, 12],
        segmentation=[[44, 5, 90, 5, 90, 17, 44, 17]],  # the box is cut off at the side
    )
    folder.content['train']['annotations'][2].update(bbox=[4, 5, 3, 3], segmentation=[[4.5, 5.5, 6, 7, 5, 6]])
    assert kinds(check_dataset(folder.save(), quick=True)) == set()


def test_boxes_that_are_not_around_their_polygons(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=5, val=2)
    boxes = folder.content['train']['annotations']
    for box in boxes[1:]:
        box.update(
            bbox=[10, 5, 20, 10], area=700, segmentation=[[20, 10, 60, 10, 40, 40], [20, 20, 30, 30, 20, 40]]
        )
    boxes[4]['segmentation'].append([0, 'x', 1, 1, 1, 1])  # the others are checked all the same
    report = check_dataset(folder.save(), jobs=1)
    (finding,) = report.errors
    assert (finding.kind, finding.count) == ('box unlike its polygon', 3)
    with pytest.raises(
        UserError, match=r'(?s)bbox \[10, 5, 20, 10\], its polygon spans \[20, 10, 40, 30\].* --fix takes'
    ):
        find_data(folder.root)
    write_fixed(report, tmp_path / 'fixed')
    content = json.loads((tmp_path / 'fixed/annotations/instances_train.json').read_text())
    fixed = [(box['bbox'], box['area']) for box in content['annotations']]
    assert fixed[1:4] == [([20, 10, 40, 30], 700)] * 3 and fixed[4][0] == [10, 5, 20, 10]


def test_a_box_that_is_clipped_keeps_the_area_of_its_polygon(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=3, val=3)
    image = folder.content['train']['images'][0]
    box, other = folder.content['train']['annotations'][:2]
    box.update(image_id=image['id'], bbox=[5, 5, image['width'], 10], area=77)
    other.update(image_id=image['id'], bbox=[5, 15, image['width'], 10], area=10 * image['width'])
    write_fixed(check_dataset(folder.save(), jobs=1), tmp_path / 'fixed')
    content = json.loads((tmp_path / 'fixed/annotations/instances_train.json').read_text())
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
    report = check_dataset(folder.save(), jobs=1)
    (finding,) = (each for each in report.findings if each.kind == 'same box twice')
    assert (finding.severity, finding.count) == ('warning', 3)
    assert [place.split()[0] for place in finding.where] == [
        'annotations[6]',
        'annotations[7]',
        'annotations[9]',
    ]
    assert 'train: 3 repeated boxes dropped' in write_fixed(report, tmp_path / 'fixed')
    assert 'same box twice' not in kinds(check_dataset(tmp_path / 'fixed', jobs=1))
    content = json.loads((tmp_path / 'fixed/annotations/instances_train.json').read_text())
    assert len(content['annotations']) == 9


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
    report = check_dataset(folder.save(), jobs=1)
    assert ('left out: 6 in images without a size' in str(report)) == (form in ('missing', 'zero'))
    kind = 'id as text' if form.startswith('ids') else 'image without size'
    with pytest.raises(UserError, match=f'(?s)train: {kind} .*--fix'):
        find_data(folder.root)
    lines = write_fixed(report, tmp_path / 'fixed')
    assert any('ids as text' in line or 'sizes' in line for line in lines)
    assert {each.kind for each in report.errors} == {kind}
    assert check_dataset(tmp_path / 'fixed', jobs=1).findings == []
    for split, content in wanted.items():
        fixed = json.loads((tmp_path / f'fixed/annotations/instances_{split}.json').read_text())
        files = {image['id']: image['file_name'] for image in fixed['images']}
        names = {category['id']: category['name'] for category in fixed['categories']}
        assert [(i['width'], i['height']) for i in fixed['images']] == [(WIDTH, HEIGHT)] * len(files)
        assert [(files[b['image_id']], names[b['category_id']], b['bbox']) for b in fixed['annotations']] == [
            (f'{b["image_id"]:04d}.jpg', NAMES[b['category_id'] - 1], b['bbox'])
            for b in content['annotations']
        ]


@pytest.mark.parametrize('what', ['images', 'boxes'])
def test_a_copy_that_would_lose_most_is_refused(tmp_path: Path, what: str) -> None:
    folder = Folder(tmp_path / 'set', train=9, val=3)
    for _ in range(5):
        _, box, path = folder.take()
        path.unlink() if what == 'images' else box.update(category_id=77)
    report = check_dataset(folder.save(), jobs=1)
    reason = 'missing file' if what == 'images' else 'unknown category'
    with pytest.raises(UserError, match=f'(?s)5 of 9 {what} of train would be dropped.*{reason} .5.'):
        write_fixed(report, tmp_path / 'fixed')
    assert [path.name for path in tmp_path.iterdir()] == ['set']


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


def test_a_decoder_that_dies_takes_one_image_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / 'dies.py'
    script.write_text(
        'import json, os, sys\n'
        'for path in json.load(sys.stdin):\n'
        '    if path.endswith("1"): os._exit(9)\n'
        '    print(json.dumps({"hash": path}), flush=True)\n'
    )
    monkeypatch.setattr('ghost_det.data.checks.images.image_facts.__file__', str(script))
    facts = open_images([Path(str(n)) for n in range(5)], 2)
    assert ['error' in each for each in facts] == [False, True, False, False, False]
    assert 'exit code 9' in facts[1]['error']


def test_an_interruption_does_not_wait_for_the_other_images(tmp_path: Path) -> None:
    script = tmp_path / 'slow.py'
    script.write_text(
        'import json, sys, time\n'
        'for path in json.load(sys.stdin):\n'
        '    time.sleep(0.05)\n'
        '    print("{}", flush=True)\n'
    )
    code = (
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from pathlib import Path; from ghost_det.data.checks import images\n'
        f'images.image_facts.__file__ = {str(script)!r}; print("go", flush=True)\n'
        'images.open_images([Path("a")] * 1000, 2)'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b'go\n'
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)  # all of them take 25 s
    assert b'KeyboardInterrupt' in said


def test_formats_that_mmcv_does_not_read_are_not_opened(tmp_path: Path) -> None:
    for form in ('BMP', 'EPS', 'PCX', 'TIFF'):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{form}.jpg', form)
    paths = sorted(tmp_path.iterdir())
    refused = 'no image of a format that mmcv reads'
    assert [each.get('error') for each in open_images(paths, 1)] == [None, refused, refused, None]
    assert [mmcv.imread(str(path)) is None for path in paths] == [False, True, True, False]


def test_workers_import_no_torch() -> None:
    code = 'import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit("torch" in sys.modules)'
    script = ROOT / 'ghost_det/data/image_facts.py'
    subprocess.run([sys.executable, '-c', code, str(script)], check=True)


def test_a_training_that_stops_at_an_image_names_the_fix(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    for content in (b'\xff\xd8\xff', b'', None):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r'a\.jpg: .*check-data lists all such images; its --fix'):
            NamedCompose([LoadImageFromFile()])({'img_path': str(path)})


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


def test_the_page_needs_nothing_else_and_trusts_no_text(tmp_path: Path) -> None:
    evil = '<script>alert("$x^$")</script>'
    folder = Folder(tmp_path / 'set', train=4, val=3)
    for content in folder.content.values():
        content['categories'][0]['name'] = evil
    image, _, path = folder.take()
    image['file_name'] = '"><img src=x onerror=alert(1)>.jpg'
    report = check_dataset(folder.save(), config=load_config(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'))
    page = render(report)
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(page)
    allowed = {'html', 'head', 'meta', 'title', 'style', 'body', 'h1', 'h2', 'p', 'pre', 'img'}
    assert {tag for tag, _ in tags} <= allowed and 'onerror' in page
    pictures = [attributes['src'] or '' for tag, attributes in tags if tag == 'img']
    assert len(pictures) == 3 and all(p.startswith('data:image/png;base64,iVBOR') for p in pictures)
    assert not any('href' in attributes or 'onerror' in attributes for _, attributes in tags)


@pytest.mark.parametrize('kind', ['missing file', 'swapped corners', 'box not finite', 'unknown image'])
def test_training_stops_at_errors_and_names_the_tool(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    TOGETHER[kind](folder)
    with pytest.raises(UserError, match=f'(?s)train: {kind} .*ghost-det check-data'):
        find_data(folder.save())


def test_training_goes_on_after_warnings(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    TOGETHER['box sticks out'](folder)
    TOGETHER['duplicate box id'](folder)  # which aligned annotations mend
    (warning,) = find_data(folder.save()).warnings
    assert warning.startswith('train: box sticks out (1): annotations[0] (0001.jpg)')


def check_tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'ghost_det_main', 'check-data', *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_what_a_fix_leaves_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    alone('no boxes', folder)
    monkeypatch.setattr(sys, 'argv', ['check_data', str(folder.save()), '--fix', str(tmp_path / 'fixed')])
    with pytest.raises(SystemExit):
        check_data.main()
    said = capsys.readouterr().out
    assert (
        'errors left in it:\ntrain: no boxes (1): it has images but no boxes' in said
        and 'Finding(' not in said
    )


@pytest.mark.slow
def test_the_tool(tmp_path: Path) -> None:
    root = faulty(tmp_path / 'a set')
    page, machine, fixed = tmp_path / 'r.html', tmp_path / 'r.json', tmp_path / 'fixed'
    done = check_tool(root, '--html', page, '--json', machine, '--fix', fixed, '--jobs', '2')
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'the fixed copy has no errors' in done.stdout
    found = {finding['kind'] for finding in json.loads(machine.read_text())['findings']}
    assert set(TOGETHER) <= found and page.read_text().startswith('<!doctype html>')
    assert NAMES[0] in (fixed / 'annotations/instances_train.json').read_text()
    truth = root / 'annotations/instances_train2017.json'
    before = truth.read_bytes()
    done = check_tool(root, '--quick', '--json', truth)
    assert done.returncode == 2 and 'would replace what is read' in done.stderr
    assert truth.read_bytes() == before
    for option, place, says in (
        ('--html', tmp_path, 'this is a folder'),
        ('--json', page / 'r.json', 'its folder cannot be made'),
        ('--fix', fixed, 'not an empty folder'),
        ('--fix', root / 'new', 'lies in the data set'),
    ):
        done = check_tool(root, option, place)
        assert done.returncode == 2 and says in done.stderr and not done.stdout  # before the check
    done = check_tool(tmp_path / 'nowhere')
    assert done.returncode == 2 and 'Traceback' not in done.stderr and 'expected a folder' in done.stderr


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
    assert (
        found.severity == 'error' and found.count == 1 and kinds(report) >= {'wrong entry'}
    )  # the broken code
    write_fixed(report, tmp_path / 'fixed')
    fixed = json.loads((tmp_path / 'fixed/annotations/instances_train.json').read_text())['annotations']
    assert [each['bbox'] for each in fixed if 'segmentation' in each] == [expected]
    assert all(each['area'] == each['bbox'][2] * each['bbox'][3] for each in fixed)


@pytest.mark.parametrize(
    ('attributes', 'count'),
    [({'rotation': 42.5}, 1), ({'rotation': '90'}, 1), ({'rotation': 0.0}, 0), ({'rotation': 180}, 0)]
    + [({'rotation': 'left'}, 0), ({'occluded': True}, 0), ([{'rotation': 5}], 0), (None, 0)],
)
def test_boxes_of_objects_that_cvat_has_turned_are_counted(
    tmp_path: Path, attributes: Any, count: int
) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    folder.content['train']['annotations'][1]['attributes'] = attributes
    findings = check_dataset(folder.save(), quick=True).findings
    assert [(f.kind, f.severity, f.count) for f in findings] == [('rotated box', 'warning', 1)][:count]


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
def test_a_class_of_crowds_only_is_reported(tmp_path: Path, flag: str) -> None:
    folder = Folder(tmp_path / 'set', train=6, val=3)
    for box in folder.content['train']['annotations']:
        box[flag] = int(box['category_id'] == 2)
    found = {f.kind: f for f in check_dataset(folder.save(), quick=True).findings}['category without boxes']
    assert found.where == ("'dog': only crowds, or with ignore",) and found.split == 'train'


def test_tags_against_the_annotated_size_stop_a_training(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=6, val=3)
    TOGETHER['EXIF against boxes'](folder)
    image, _, path = folder.take()
    tag = Image.Exif()
    tag[0x0112] = 8
    picture = Image.open(path)
    picture.save(folder.rename(image, path, '.tif'), exif=tag)
    TOGETHER['EXIF rotation'](folder)
    folder.save()
    (found,) = check_dataset(folder.root, quick=True).errors
    assert (found.kind, found.count, found.split) == ('EXIF against boxes', 2, 'train')
    with pytest.raises(UserError, match=r'train: EXIF against boxes \(2\)'):
        find_data(folder.root)

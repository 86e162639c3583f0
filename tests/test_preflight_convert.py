"""Pascal VOC and YOLO layouts: there and back, wrong files, bombs, the cache."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghost_det import check_dataset
from ghost_det.data import find_data
from ghost_det.errors import UserError
from ghost_det.preflight.convert import converted

supervision = pytest.importorskip('supervision')


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('GHOST_DET_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def boxes_of(content: dict[str, Any]) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box of each object of an image, by its file's name, in the file's order."""
    names = {c['id']: c['name'] for c in content['categories']}
    files = {i['id']: Path(i['file_name']).name for i in content['images']}
    found: dict[str, list[tuple[str, list[float]]]] = {file: [] for file in files.values()}
    for box in content['annotations']:
        found[files[box['image_id']]].append((names[box['category_id']], box['bbox']))
    return found


def export(coco: Path, out: Path, layout: str) -> None:
    """Write the two splits of a COCO folder as VOC or YOLO, by supervision's own writers."""
    for split, name in (('train', 'train'), ('val', 'valid')):
        source = json.loads((coco / f'annotations/instances_{split}2017.json').read_text())
        plain = out.parent / f'{split}.json'
        for box in source['annotations']:
            box['segmentation'], box['iscrowd'] = [], 0  # boxes alone
        plain.write_text(json.dumps(source))
        dataset = supervision.DetectionDataset.from_coco(str(coco / f'{split}2017'), str(plain))
        if layout == 'yolo':
            dataset.as_yolo(str(out / name / 'images'), str(out / name / 'labels'), str(out / 'data.yaml'))
        else:
            dataset.as_pascal_voc(str(out / name), str(out / name))
    if layout == 'yolo':
        yaml = out / 'data.yaml'
        yaml.write_text(yaml.read_text() + 'train: ../train/images\nval: ../valid/images\n')


@pytest.mark.parametrize('layout', ['voc', 'yolo'])
def test_there_and_back_are_the_same_boxes(coco_mini: Path, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / 'set'
    export(coco_mini, folder, layout)
    files = sorted(folder.rglob('*'))
    data = find_data(folder)
    assert data.train is not None and data.train.annotations.is_relative_to(tmp_path / 'cache')
    assert sorted(folder.rglob('*')) == files  # nothing is written there
    compared, largest = 0, 0.0
    for split, path in (('train', data.train.annotations), ('val', data.val.annotations)):
        before = boxes_of(json.loads((coco_mini / f'annotations/instances_{split}2017.json').read_text()))
        after = boxes_of(json.loads(path.read_text()))
        assert before.keys() == after.keys()
        for file, boxes in before.items():
            assert Counter(name for name, _ in boxes) == Counter(name for name, _ in after[file])
            if not boxes:
                continue
            ours, theirs = (np.array([b for _, b in each]) for each in (after[file], boxes))
            # VOC has whole pixels: corners within half of one, and no box of less than one.
            corners = [np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]) for b in (ours, theirs)]
            largest = max(largest, np.abs(corners[0] - corners[1]).max())
            compared += len(boxes)
    print(layout, compared, 'boxes, largest difference of a corner in px:', largest)
    assert compared == 1363
    assert largest <= (1.0 if layout == 'voc' else 1e-2)
    report = check_dataset(folder, quick=True)
    assert not report.errors, str(report)


COLOURS = {'a': 'red', 'b': 'green', 'c': 'blue'}


def voc(root: Path, xml: str = '', lists: bool = False) -> Path:
    """A small Pascal VOC set; ``xml`` is the content of the second training label."""
    from PIL import Image

    for split, stems in (('train', ('a', 'b')), ('valid', ('c',))):
        images, labels = (root / 'JPEGImages', root / 'Annotations') if lists else (root / split,) * 2
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
        for stem in stems:
            Image.new('RGB', (40, 30), COLOURS[stem]).save(images / f'{stem}.jpg')
            things = thing('dog', 1, 1, 40, 30) + thing('cat', 11, 6, 20, 15, difficult=1)
            label = f'<annotation>{things}</annotation>'
            (labels / f'{stem}.xml').write_text(xml if stem == 'b' and xml else label)
        if lists:
            (root / 'ImageSets/Main').mkdir(parents=True, exist_ok=True)
            name = 'train' if split == 'train' else 'val'
            (root / f'ImageSets/Main/{name}.txt').write_text('\n'.join(stems) + '\n')
    return root


def thing(name: str, *box: float, difficult: int = 0) -> str:
    corners = ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
    return f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>'


@pytest.mark.parametrize('lists', [False, True], ids=['beside the images', 'ImageSets'])
def test_voc_counts_pixels_from_one(tmp_path: Path, lists: bool) -> None:
    data = find_data(voc(tmp_path / 'set', lists=lists))
    assert data.train is not None and data.classes == ('cat', 'dog')
    content = json.loads(data.train.annotations.read_text())
    assert [box['bbox'] for box in content['annotations'][:2]] == [[0, 0, 40, 30], [10, 5, 10, 10]]
    assert [box['iscrowd'] for box in content['annotations'][:2]] == [0, 1]  # difficult ones are not counted
    assert all((data.train.images / image['file_name']).is_file() for image in content['images'])


BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;">]><annotation><object><name>&d;</name></object></annotation>'
)
OUTSIDE = (
    '<!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    '<annotation><object><name>&x;</name></object></annotation>'
)


@pytest.mark.parametrize(
    ('xml', 'says'),
    [
        (BOMB, 'EntitiesForbidden'),
        (OUTSIDE, 'EntitiesForbidden'),
        ('<annotation><object>', 'ParseError'),
        ('<annotation><object><name>dog</name></object></annotation>', 'Missing bndbox'),
        (f'<annotation>{thing("dog", 1, 1, float("nan"), 4)}</annotation>', 'nan'),
        (' ' * (2**24 + 1), 'over 16 MiB'),
    ],
)
def test_wrong_label_files_are_named(tmp_path: Path, xml: str, says: str) -> None:
    root = voc(tmp_path / 'set', xml)
    report = check_dataset(root)
    (finding,) = report.errors
    assert finding.kind == 'wrong label file' and finding.split == 'train'
    assert finding.where[0].startswith('train/b.xml of train/b.jpg: ') and says in finding.where[0]
    with pytest.raises(UserError, match=r'train: wrong label file \(1\): train/b.xml'):
        find_data(root)


def yolo(root: Path, yaml: str, label: str = '0 0.5 0.5 0.5 0.5\n') -> Path:
    from PIL import Image

    for split in ('train', 'val'):
        (root / 'images' / split).mkdir(parents=True)
        (root / 'labels' / split).mkdir(parents=True)
        tag = Image.Exif()
        tag[0x0112] = 6
        picture = Image.new('RGB', (40, 30), 'red' if split == 'val' else 'blue')
        picture.save(root / f'images/{split}/a.jpg', exif=tag)
        (root / f'labels/{split}/a.txt').write_text(label)
    (root / 'data.yaml').write_text(yaml)
    return root


def test_yolo_of_ultralytics_is_read_in_upright_images(tmp_path: Path) -> None:
    yaml = f'path: {tmp_path}/set\ntrain: images/train\nval: images/val\nnames: {{0: cat, 1: dog}}\n'
    label = '0 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.9 0.1 0.9 0.8\n'  # a box and a polygon
    data = find_data(yolo(tmp_path / 'set', yaml, label))
    assert data.train is not None and data.classes == ('cat', 'dog')
    content = json.loads(data.train.annotations.read_text())
    assert [(i['width'], i['height']) for i in content['images']] == [(30, 40)]
    found = [box['bbox'] for box in content['annotations']]
    np.testing.assert_allclose(found, [[7.5, 10, 15, 20], [3, 4, 24, 28]], atol=1e-4)
    report = check_dataset(tmp_path / 'set')
    assert not report.errors and 'EXIF rotation' in str(report)


@pytest.mark.parametrize(
    ('label', 'kind', 'says'),
    [
        ('5 0.5 0.5 0.5 0.5\n', 'unknown category', 'category_id 5'),
        ('0 0.5 0.5 nan 0.5\n', 'wrong label file', 'labels/train/a.txt of images/train/a.jpg'),
        ('0 0.5 0.5\n', 'wrong label file', 'labels/train/a.txt'),
        ('99999999999999999999 0.5 0.5 0.5 0.5\n', 'wrong label file', 'labels/train/a.txt'),
        ('0 1.5 0.5 0.2 0.2\n', 'box outside', '(images/train/a.jpg): bbox'),
        ('', 'no boxes', 'nothing to learn from'),
    ],
)
def test_faults_in_labels_of_yolo(tmp_path: Path, label: str, kind: str, says: str) -> None:
    root = yolo(tmp_path / 'set', 'train: images/train\nval: images/val\nnames: [cat]\n', label)
    report = check_dataset(root)
    (finding,) = (f for f in report.errors if f.kind == kind and f.split == 'train')
    assert says in finding.where[0]


PLACES = 'train: images/train\nval: images/val\n'
LAUGHS = 'a0: &a0 [ha, ha]\n' + ''.join(f'a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 31))


@pytest.mark.parametrize(
    ('yaml', 'says'),
    [
        ('train: images/nowhere\nval: images/val\nnames: [cat]\n', 'no such folder of images'),
        ('train: images/train\nval: images/val\nnames: cat\n', 'a list of class names is wanted'),
        ('train: [images\n', 'cannot be read'),
        (f'{PLACES}names: {"[" * 5000 + "]" * 5000}\n', 'cannot be read'),
        (f'{PLACES}names: !!python/object/apply:os.abort []\n', 'cannot be read'),
        (f'{PLACES}names: {{100000000000: cat}}\n', 'from 0 to below 100,000'),
        (f'{PLACES}names: {{-1: cat}}\n', 'from 0 to below 100,000'),
        (f'{LAUGHS}{PLACES}names: *a30\n', 'a list of class names is wanted'),
        (f'{LAUGHS}{PLACES}names: {{cat: *a30}}\n', 'a list of class names is wanted'),
        (f'{LAUGHS}train: *a30\nval: images/val\nnames: [cat]\n', 'train is a list: no such folder'),
        (f'{LAUGHS}path: *a30\n{PLACES}names: [cat]\n', 'no such folder'),
    ],
)
def test_a_wrong_yaml_is_named(tmp_path: Path, yaml: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        find_data(yolo(tmp_path / 'set', yaml))
    assert 'data.yaml' in str(error.value)


def test_labels_beside_the_images_of_yolo(tmp_path: Path) -> None:
    """Only a folder that is called images has its labels elsewhere."""
    root = yolo(tmp_path / 'my_images', 'train: one\nval: two\nnames: [cat]\n')
    for split, name in (('train', 'one'), ('val', 'two')):
        (root / f'images/{split}').rename(root / name)
        (root / f'labels/{split}/a.txt').rename(root / name / 'a.txt')
    data = find_data(root)
    assert data.train is not None and len(json.loads(data.train.annotations.read_text())['annotations']) == 1


def test_folders_in_the_images_of_yolo(tmp_path: Path) -> None:
    root = yolo(tmp_path / 'set', 'train: images\nval: images/val\nnames: [cat]\n')
    data = find_data(root)
    assert data.train is not None
    content = json.loads(data.train.annotations.read_text())
    assert [image['file_name'] for image in content['images']] == ['images/train/a.jpg', 'images/val/a.jpg']
    assert len(content['annotations']) == 2


@pytest.mark.skipif(sys.platform == 'darwin', reason='its file systems refuse such names')
def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = voc(tmp_path / os.fsdecode(b'set\xff'))
    report = check_dataset(root, quick=True)
    assert not report.errors and r'set\udcff: 2 images' in str(report)
    str(report).encode()


def test_an_image_of_any_claimed_size_is_named(tmp_path: Path) -> None:
    root = voc(tmp_path / 'set')
    picture = bytearray((root / 'train/b.jpg').read_bytes())
    frame = picture.index(b'\xff\xc0')
    picture[frame + 5 : frame + 9] = b'\xff\xdc' * 2  # 65,500 x 65,500
    (root / 'train/b.jpg').write_bytes(picture)
    (finding,) = check_dataset(root).errors
    assert 'train/b.jpg' in finding.where[0] and 'exceeds limit' in finding.where[0]


def test_the_cache_is_used_until_the_data_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = voc(tmp_path / 'set')
    first = converted(root)
    with monkeypatch.context() as patch:
        patch.setattr('ghost_det.preflight.convert._convert', lambda *_: pytest.fail('converted again'))
        assert converted(root) == first
    (root / 'train/b.xml').write_text(f'<annotation>{thing("owl", 1, 1, 9, 9)}</annotation>')
    second = converted(root)
    assert second != first and 'owl' in second['train'].read_text() and not first['train'].exists()
    (root / 'valid/c.xml').unlink()
    assert converted(root) != second
    copy = tmp_path / 'other'
    shutil.copytree(root, copy)
    assert converted(copy)['train'].parent != converted(root)['train'].parent and second


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = voc(tmp_path / 'set')
    monkeypatch.setitem(sys.modules, 'defusedxml.ElementTree', None)
    with pytest.raises(UserError, match=r'pip install "ghost-det\[data\]"'):
        find_data(root)

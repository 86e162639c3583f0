"""Folders as people have them: which are understood, how a val is made, what a refusal says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError
from tests.conftest import ROOT

from .makers import NAMES, coco, label, picture, split_files, tree, voc, voc_lists, yolo

pytestmark = pytest.mark.usefixtures('cache')


def keypoints_and_captions(root: Path) -> None:
    for split in ('train', 'val'):
        path = coco(root / f'annotations/person_keypoints_{split}2017.json', root / f'{split}2017', 10)
        captions = json.loads(path.read_text()) | {
            'annotations': [{'id': 1, 'image_id': 0, 'caption': 'a dog'}]
        }
        path.with_name(f'captions_{split}2017.json').write_text(json.dumps(captions))


def empty_val(root: Path) -> None:
    for split, count in (('train', 20), ('val', 0), ('test', 5)):
        coco(root / f'annotations/instances_{split}.json', root / split, count)
    coco(root / 'annotations/all_train.json', root / 'train', 3)
    picture(root / 'images/0.jpg')  # a folder named as the split wins over this


def yolo_yaml(root: Path, *splits: str) -> None:
    """Write a ``data.yaml`` of train, and of an empty val and test, if there are such ``splits``."""
    for split in ('train', *splits):
        yolo(root, f'images/{split}', f'labels/{split}')
    if splits:
        shutil.rmtree(root / 'images/val')
        (root / 'images/val').mkdir()
    places = ''.join(f'{split}: images/{split}\n' for split in ('train', *splits))
    tree(root, {'data.yaml': f'{places}names: [dog, cat]\n'})


def split_folders(images: str, labels: str, val: str) -> Callable[[Path], object]:
    return lambda root: [
        voc(root, images.format(split), labels.format(split), NAMES[:10]) for split in ('train', val)
    ]


UNDERSTOOD: dict[str, tuple[Callable[[Path], object], int, int | None, bool]] = {
    # images of train, of val (``None``: made of train), and whether a line says where val is from
    'images, annotations': (lambda root: voc(root, 'images', 'annotations'), 20, None, True),
    'xml next to images': (lambda root: voc(root, '.', '.', suffix='.png'), 20, None, True),
    'other names': (lambda root: voc(root, 'photos', 'labels_voc'), 20, None, True),
    'a folder too high': (lambda root: voc(root, 'one/images', 'one/annots'), 20, None, True),
    'train list only': (lambda root: voc_lists(root, train=NAMES), 20, None, True),
    'images/train': (split_folders('images/{}', 'annotations/{}', 'test'), 10, 10, True),
    'train/images': (split_folders('{}/images', '{}/annotations', 'valid'), 10, 10, False),
    'trainval, test': (lambda r: voc_lists(r, trainval=NAMES[:15], test=NAMES[15:]), 15, 5, True),
    'trainval, val': (lambda r: voc_lists(r, trainval=NAMES, val=NAMES[15:]), 15, 5, True),
    'an empty val list': (
        lambda r: voc_lists(r, train=NAMES[:15], val=[], test=NAMES[15:]), 15, 5, True
    ),
    'YOLO without a yaml': (lambda root: yolo(root, 'images', 'labels', 'classes.txt'), 10, None, True),
    'YOLO of LabelImg': (lambda root: yolo(root, '.', '.', 'classes.txt'), 10, None, True),
    'YOLO, train only': (yolo_yaml, 10, None, True),
    'YOLO, val is empty': (lambda root: yolo_yaml(root, 'val', 'test'), 10, 10, True),
    'CVAT': (lambda r: coco(r / 'annotations/instances_default.json', r / 'images/default'), 20, None, True),
    'Label Studio': (lambda r: coco(r / 'result.json', r / 'images', prefix='images/'), 20, None, True),
    'FiftyOne': (lambda root: coco(root / 'labels.json', root / 'data'), 20, None, True),
    'Roboflow': (lambda root: coco(root / 'train/_annotations.coco.json', root / 'train'), 20, None, True),
    'json in the root': (lambda root: coco(root / 'train.json', root / 'images'), 20, None, True),
    'images in the root': (lambda root: coco(root / 'annotations/my_train.json', root), 20, None, True),
    'train folder': (lambda r: coco(r / 'Annotations/my_train.json', r / 'Images/train'), 20, None, True),
    'capitals': (lambda root: coco(root / 'Annotations/all.json', root / 'Images'), 20, None, True),
    'keypoints, captions': (keypoints_and_captions, 10, 10, False),
    'an empty val json': (empty_val, 20, 5, True),
}  # fmt: skip


@pytest.mark.parametrize('name', UNDERSTOOD)
def test_what_people_have_is_understood(tmp_path: Path, name: str) -> None:
    build, first, second, noted = UNDERSTOOD[name]
    build(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    data = find_data(tmp_path)
    assert sorted(tmp_path.rglob('*')) == before
    train, val = split_files(data)
    assert {*data.classes} == {'dog', 'cat'} and len(data.notes) == noted
    assert data.train is not None and all((data.train.images / file).is_file() for file in train)
    assert all((data.val.images / file).is_file() for file in val)
    assert (len(train), len(val)) == (first, second) if second else len(train) + len(val) == first
    assert val and (second or not train & val)
    report = check_dataset(tmp_path, quick=True)
    assert not report.errors, str(report)
    assert [f.where for f in report.findings if f.kind == 'val was chosen'] == [data.notes] * noted


def test_xml_files_and_images_without_partners_are_counted(tmp_path: Path) -> None:
    voc(tmp_path, 'images', 'annotations')
    for name in ('lost', 'twice', 'more/im 3'):
        label(tmp_path / f'annotations/{name}.xml')
    for folder in ('a', 'b'):  # which of them the label is of, nobody knows
        picture(tmp_path / f'images/{folder}/twice.jpg')
    picture(tmp_path / 'images/unlabelled/cat.jpg')  # in a folder without labels, it is not part of the set
    (tmp_path / 'annotations/im 4.xml').unlink()
    assert sum(map(len, split_files(find_data(tmp_path)))) == 20
    found = {f.kind: f.where for f in check_dataset(tmp_path, quick=True).findings if 'label' in f.kind}
    lost = {Path(place).stem for place in found['label file without image']}
    assert lost == {'lost', 'twice', 'im 3'}
    assert len(found['image without labels']) == 1


@pytest.mark.parametrize('case', ['wrong folder', 'path of another machine', 'letter case', 'none'])
def test_images_that_are_elsewhere(tmp_path: Path, case: str) -> None:
    images = tmp_path / 'pictures/all'
    train = coco(tmp_path / 'train.json', images, prefix='C:\\me\\' if case.startswith('path') else '')
    val = coco(tmp_path / 'val.json', images, 3)
    given = images.parent if case == 'wrong folder' else images
    if case == 'letter case':
        train.write_text(train.read_text().replace('.jpg', '.JPG'))
    if case == 'none':
        shutil.rmtree(images)
    with pytest.raises(UserError, match='--train-images') as error:
        find_data(None, train, given, val, images)
    assert (f'{images}/0.jpg' in str(error.value)) == (case != 'none')
    assert [e.kind for e in check_dataset(None, train, given, quick=True).errors] == ['wrong image folder']


def test_the_same_images_in_train_and_val_are_reported(tmp_path: Path) -> None:
    train = coco(tmp_path / 'train/_annotations.coco.json', tmp_path / 'train')
    val = coco(tmp_path / 'valid/_annotations.coco.json', tmp_path / 'valid', 5)
    for path in (train, val):  # the same names are not yet the same images, nor are those of one size
        for number in range(5):
            Image.effect_noise((40, 30), 9).convert('RGB').save(path.parent / f'{number}.jpg', 'BMP')
    assert not find_data(tmp_path).warnings
    for number in range(5):
        shutil.copy(train.parent / f'{number}.jpg', val.parent)
    assert find_data(tmp_path).warnings == ('image in both splits (5): 0.jpg and 4 more',)
    overfit = find_data(None, train, train.parent, train, train.parent)  # on purpose: a warning
    assert overfit.warnings == ('image in both splits (20): 0.jpg and 19 more',)


@pytest.mark.parametrize('words', ['train retinanet_ghostnet_fpn_lite --data', 'check-data'])
def test_a_refusal_imports_no_torch(tmp_path: Path, words: str) -> None:
    command = [sys.executable, '-X', 'importtime', '-m', 'ghost_det_main', *words.split(), str(tmp_path)]
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)
    imported = set(re.findall(r'^import time:.*\| +(\w+)$', done.stderr, re.MULTILINE))
    assert done.returncode == 2 and 'supported layouts' in done.stderr, done.stderr[-2000:]
    assert 'argparse' in imported and not imported & {'torch', 'mmdet', 'mmengine', 'mmcv'}


def test_refused_folders_and_splits_are_named(tmp_path: Path, sample: Path) -> None:
    for year in ('VOC2007', 'VOC2012'):
        voc_lists(tmp_path / 'voc' / year, train=NAMES[:15], val=NAMES[15:])
    (line,) = find_data(tmp_path / 'voc').warnings
    assert 'data not used' in line and f'{tmp_path / "voc/VOC2012"}' in line
    train = coco(tmp_path / 'two/train.json', tmp_path / 'two')
    coco(tmp_path / 'two/dev.json', tmp_path / 'two')  # which may be val or not
    tree(tmp_path / 'cvat', {'annotations.xml': '<annotations><image id="0"></image></annotations>'}, 'a.jpg')
    tree(tmp_path / 'studio', {'result.json': '[{"result": [{"bbox": 1, "images": 2}]}]'}, 'images/a.jpg')
    for message, arguments in {
        'nowhere: no such folder': {'folder': tmp_path / 'nowhere'},
        'two: found no val annotations .*dev.json, train.json.*, only train': {'folder': tmp_path / 'two'},
        'cvat: found no train': {'folder': tmp_path / 'cvat'},
        'studio: found no train': {'folder': tmp_path / 'studio'},
        'no val annotations: give --val-ann': {'folder': None, 'train_ann': train},
        'no such annotation file': {'folder': tmp_path / 'two', 'val_ann': tmp_path / 'none.json'},
        'instances_val2017.json.*--val-share 0.3': {'folder': sample, 'val_share': 0.3},
    }.items():
        with pytest.raises(UserError, match=message):
            find_data(**arguments)

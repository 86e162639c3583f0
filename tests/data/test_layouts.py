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
from ghost_det.data.annotations import survey
from ghost_det.data.dataset import DetectionData, find_data
from ghost_det.data.layouts import val_part
from ghost_det.errors import UserError
from tests.conftest import ROOT, Cli

from .makers import NAMES, coco, label, picture, thing, tree, voc, voc_lists, yolo

FAULTS = ROOT.parent / 'shared/data/faults'
CONFIG = 'retinanet_ghostnet_fpn_lite'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('GHOST_DET_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def files(data: DetectionData) -> tuple[set[str], set[str]]:
    assert data.train is not None
    return {*survey(data.train.annotations).table.files}, {*survey(data.val.annotations).table.files}


def counts(data: DetectionData) -> tuple[int, int]:
    train, val = files(data)
    return len(train), len(val)


def keypoints_and_captions(root: Path) -> None:
    for split in ('train', 'val'):
        coco(root / f'annotations/captions_{split}2017.json', root / f'{split}2017', 10, captions=True)
        coco(root / f'annotations/person_keypoints_{split}2017.json', root / f'{split}2017', 10)


def split_folders(images: str, labels: str, val: str) -> Callable[[Path], object]:
    return lambda root: [
        voc(root, images.format(split), labels.format(split), NAMES[:10]) for split in ('train', val)
    ]


def empty_val(root: Path) -> None:
    for split, count in (('train', 20), ('val', 0), ('test', 5)):
        coco(root / f'annotations/instances_{split}.json', root / split, count)


def yolo_yaml(root: Path) -> None:
    for split in ('train', 'test'):
        yolo(root, f'images/{split}', f'labels/{split}')
    (root / 'images/val').mkdir()
    places = ''.join(f'{split}: images/{split}\n' for split in ('train', 'val', 'test'))
    tree(root, {'data.yaml': f'{places}names: [dog, cat]\n'})


def yolo_train(root: Path) -> None:
    yolo(root, 'images/train', 'labels/train')
    tree(root, {'data.yaml': 'train: images/train\nnames: [dog, cat]\n'})


UNDERSTOOD: dict[str, tuple[Callable[[Path], object], int, int | None, bool]] = {
    # images of train, of val (``None``: made of train), and whether a line says where val is from
    'images, annotations': (lambda root: voc(root, 'images', 'annotations'), 20, None, True),
    'xml next to images': (lambda root: voc(root, '.', '.', suffix='.png'), 20, None, True),
    'one level down': (lambda root: voc(root, 'pictures', 'pictures'), 20, None, True),
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
    'lists of a class': (
        lambda r: voc_lists(r, train=[f'{n}  1' for n in NAMES[:15]], val=[f'{n} -1' for n in NAMES[15:]]),
        15, 5, False,
    ),
    'YOLO without a yaml': (lambda root: yolo(root, 'images', 'labels', 'classes.txt'), 10, None, True),
    'YOLO of LabelImg': (lambda root: yolo(root, '.', '.', 'classes.txt'), 10, None, True),
    'YOLO, train only': (yolo_train, 10, None, True),
    'YOLO, val is empty': (yolo_yaml, 10, 10, True),
    'CVAT': (lambda r: coco(r / 'annotations/instances_default.json', r / 'images/default'), 20, None, True),
    'Label Studio': (lambda r: coco(r / 'result.json', r / 'images', prefix='images/'), 20, None, True),
    'FiftyOne': (lambda root: coco(root / 'labels.json', root / 'data'), 20, None, True),
    'Roboflow': (lambda root: coco(root / 'train/_annotations.coco.json', root / 'train'), 20, None, True),
    'capitals': (lambda root: coco(root / 'Annotations/all.json', root / 'Images'), 20, None, True),
    'keypoints, captions': (keypoints_and_captions, 10, 10, False),
    'an empty val json': (empty_val, 20, 5, True),
}  # fmt: skip


@pytest.mark.parametrize('name', UNDERSTOOD)
def test_what_people_have_is_understood(tmp_path: Path, name: str) -> None:
    build, first, second, noted = UNDERSTOOD[name]
    root = tmp_path / 'set'
    build(root)
    before = sorted(root.rglob('*'))
    data = find_data(root)
    assert sorted(root.rglob('*')) == before
    train, val = files(data)
    assert {*data.classes} == {'dog', 'cat'} and len(data.notes) == noted
    assert data.train is not None and all((data.train.images / file).is_file() for file in train)
    assert all((data.val.images / file).is_file() for file in val)
    if second is None:
        assert f'{len(val)} of {first} images are taken as it' in data.notes[0]
        assert len(train) + len(val) == first and val and not train & val
    else:
        assert (len(train), len(val)) == (first, second)
    report = check_dataset(root, quick=True)
    assert not report.errors, str(report)
    assert [f.where for f in report.findings if f.kind == 'val was chosen'] == [data.notes] * noted


@pytest.mark.parametrize('name', ['f11_voc_blanks', 'f11_voc_subfolder_png'])
def test_names_with_blanks_and_images_in_folders(name: str) -> None:
    if not FAULTS.is_dir():
        pytest.skip('the small inputs of reported faults are not here')
    report = check_dataset(FAULTS / name)
    assert not report.findings and [len(part.table.boxes) for part in report.parts] == [2, 2]


def test_a_name_that_ends_like_a_flag_is_a_name(tmp_path: Path) -> None:
    voc(tmp_path, 'JPEGImages', 'Annotations', ['photo', 'photo 1', 'photo 0', 'other'])
    tree(
        tmp_path,
        {'ImageSets/Main/train.txt': 'photo\nphoto 1\n', 'ImageSets/Main/val.txt': 'photo 0\nother\n'},
    )
    train, val = files(find_data(tmp_path))
    assert {Path(file).stem for file in train} == {'photo', 'photo 1'}
    assert {Path(file).stem for file in val} == {'photo 0', 'other'}


def test_xml_files_have_their_images_by_the_name_inside_and_others_are_counted(tmp_path: Path) -> None:
    voc(tmp_path, 'images', 'annotations')
    label(tmp_path / 'annotations/other.xml', thing('owl', 1, 1, 9, 9), file=r'C:\data\im 3.jpg')
    (tmp_path / 'annotations/im 3.xml').unlink()
    label(tmp_path / 'annotations/lost.xml', file='lost.jpg')
    picture(tmp_path / 'images/unlabelled/cat.jpg')  # in a folder without labels, it is not part of the set
    (tmp_path / 'annotations/im 4.xml').unlink()
    data = find_data(tmp_path)
    assert sum(counts(data)) == 20 and data.classes == ('cat', 'dog', 'owl')
    found = {f.kind: f.where for f in check_dataset(tmp_path, quick=True).findings if 'label' in f.kind}
    assert found['label file without image'] == ('annotations/lost.xml',)
    assert len(found['image without labels']) == 1


def test_more_images_change_the_side_of_none_and_copies_stay_together() -> None:
    few = [f'{n}.jpg' for n in range(500)]
    many = [*few, *(f'more/{n}.png' for n in range(500))]
    first = val_part(few, 0.2)
    assert first == val_part(many, 0.2) & {*few} and 70 < len(first) < 130
    assert first < val_part(few, 0.5)
    copies = [f'{n}_jpg.rf.{copy}.jpg' for n in range(100) for copy in 'abc']
    part = val_part(copies, 0.2)
    sides = {name: {each in part for each in copies if each.startswith(f'{name}_')} for name in range(100)}
    assert all(len(side) == 1 for side in sides.values()) and 0 < len(part) < 300
    twins = val_part([f'{n}.{suffix}' for n in range(100) for suffix in ('jpg', 'png')], 0.2)
    assert {f'{Path(file).stem}.{suffix}' for file in twins for suffix in ('jpg', 'png')} == twins
    assert val_part(['a.jpg', 'b.jpg'], 0.001)  # one image, whatever the share
    assert val_part(['a.jpg'], 0.2) == set()


def test_classes_of_a_made_val_are_those_of_the_data_set(tmp_path: Path) -> None:
    voc(tmp_path, 'images', 'annotations')
    for file in files(find_data(tmp_path))[1]:
        label(tmp_path / f'annotations/{Path(file).stem}.xml', thing('owl', 1, 1, 9, 9))  # not in train
    assert find_data(tmp_path).classes == ('cat', 'dog', 'owl')
    report = check_dataset(tmp_path, quick=True)
    assert not report.errors and 'category without boxes' in str(report)


def test_the_split_of_a_json_is_kept_until_it_changes(tmp_path: Path, cache: Path) -> None:
    path = coco(tmp_path / 'set/result.json', tmp_path / 'set/images')
    first = find_data(tmp_path / 'set')
    assert first.val.annotations.is_relative_to(cache)
    assert find_data(tmp_path / 'set') == first
    halves = find_data(tmp_path / 'set', val_share=0.5)
    assert counts(halves) != counts(first) and first.val.annotations.is_file()  # a training may read it
    coco(path, tmp_path / 'set/images', 40)
    assert sum(counts(find_data(tmp_path / 'set'))) == 40


def test_a_share_for_a_set_with_val_is_refused(coco_mini: Path) -> None:
    with pytest.raises(UserError, match=r'--val-share 0.3: there is a val already: .*instances_val2017.json'):
        find_data(coco_mini, val_share=0.3)


def test_errors_in_a_lone_json_are_reported_where_they_are(tmp_path: Path) -> None:
    path = coco(tmp_path / 'result.json', tmp_path / 'images')
    content = json.loads(path.read_text())
    del content['annotations'][7]['bbox']
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'wrong entry .*annotations\[7\]: bbox is missing'):
        find_data(tmp_path)
    assert 'annotations[7]' in str(check_dataset(tmp_path))


def test_several_jsons_are_not_guessed_at(tmp_path: Path) -> None:
    coco(tmp_path / 'train.json', tmp_path / 'images')
    coco(tmp_path / 'dev.json', tmp_path / 'images')
    with pytest.raises(UserError, match=r'found no val annotations .*\(dev.json, train.json\), only train'):
        find_data(tmp_path)


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
    with pytest.raises(UserError, match='images are not in .*give their folder with --train-images') as error:
        find_data(None, train, given, val, images)
    assert (f'may be {images}/0.jpg' in str(error.value)) == (case != 'none')
    assert [e.kind for e in check_dataset(None, train, given, quick=True).errors] == ['wrong image folder']


def test_some_missing_images_are_another_message(tmp_path: Path) -> None:
    coco(tmp_path / 'result.json', tmp_path / 'images')
    (tmp_path / 'images/7.jpg').unlink()
    with pytest.raises(UserError, match=r'missing file \(1\): .*7.jpg'):
        find_data(tmp_path)


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
    assert [e.kind for e in check_dataset(tmp_path, quick=True).errors] == ['image in both splits']
    overfit = find_data(None, train, train.parent, train, train.parent)  # on purpose: a warning
    assert overfit.warnings == ('image in both splits (20): 0.jpg and 19 more',)


@pytest.mark.parametrize('words', [('train', CONFIG, '--data'), ('check-data', '--config', CONFIG)])
def test_a_refusal_imports_no_torch(tmp_path: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, '-X', 'importtime', '-m', 'ghost_det_main', *words, str(tmp_path)]
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)
    imported = set(re.findall(r'^import time:.*\| +(\w+)$', done.stderr, re.MULTILINE))
    assert done.returncode == 2 and 'layouts understood' in done.stderr, done.stderr[-2000:]
    assert 'argparse' in imported and not imported & {'torch', 'mmdet', 'mmengine', 'mmcv'}


def test_check_data_writes_the_split(tmp_path: Path, cli: Cli) -> None:
    voc(tmp_path / 'set', 'images', 'annotations')
    done = cli('check-data', tmp_path / 'set', '--split', '0.4', '-o', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    written = find_data(tmp_path / 'out')
    assert not written.notes
    expected = files(find_data(tmp_path / 'set', val_share=0.4))
    assert [{Path(f).name for f in part} for part in files(written)] == [
        {Path(f).name for f in part} for part in expected
    ]
    assert cli('check-data', tmp_path / 'out', '--split', '1').returncode == 2


def test_a_second_data_set_in_the_folder_is_reported(tmp_path: Path) -> None:
    two, both = tmp_path / 'two', tmp_path / 'both'
    for year in ('VOC2007', 'VOC2012'):
        voc_lists(two / year, train=NAMES[:15], val=NAMES[15:])
    voc(both, 'images', 'annotations')
    yolo(both, 'images', 'labels', 'classes.txt')
    for root, where in ((two, f'{two / "VOC2012"}: {two / "VOC2007"} is read'), (both, 'YOLO labels: ')):
        (line,) = (line for line in find_data(root).warnings if 'data not used' in line)
        assert where in line


def test_pipes_and_names_that_no_file_can_have_stop_nothing(tmp_path: Path) -> None:
    root = voc(tmp_path / 'voc', 'images', 'annotations')
    os.mkfifo(root / 'annotations/pipe.xml')
    os.mkfifo(root / 'pipe.json')
    assert check_dataset(root, quick=True).parts
    root = tmp_path / 'yolo'
    yolo(root, 'images', 'labels')
    os.mkfifo(root / 'labels/pipe.txt')
    lines = '\n'.join(['x' * 5000, 'a\0b', *(f'images/{n}.jpg' for n in range(10))])
    tree(root, {'list.txt': lines, 'data.yaml': 'train: [list.txt, images]\nnames: [dog, cat]\n'})
    findings = check_dataset(root, quick=True).findings
    assert [f.count for f in findings if f.kind == 'missing file'] == [2]


@pytest.mark.parametrize(
    ('file', 'text'),
    [
        ('a.json', '{"shapes": [], "imagePath": "a.jpg"}'),  # LabelMe
        ('train.json', '[{"result": [{"original_width": 64, "bbox": 1, "images": 2}]}]'),
        ('annotations.xml', '<annotations><image id="0"></image></annotations>'),  # CVAT
        ('x/notes.txt', 'nothing'),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, file: str, text: str) -> None:
    tree(tmp_path, {file: text}, 'images/a.jpg')
    with pytest.raises(UserError, match="layouts understood|not COCO's detection format") as error:
        find_data(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_missing_folders_and_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='expected a folder .*nothing'):
        find_data(tmp_path / 'nowhere')
    train = coco(tmp_path / 'x.json', tmp_path)
    with pytest.raises(UserError, match='--val-ann is missing'):
        find_data(None, train_ann=train)
    with pytest.raises(UserError, match='no such annotation file'):
        find_data(tmp_path, val_ann=tmp_path / 'none.json')

"""Folders as people have them: which are understood, how a val is made, what a refusal says."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ghost_det import check_dataset
from ghost_det.data.annotations import survey
from ghost_det.data.dataset import DetectionData, find_data
from ghost_det.data.split import val_part
from ghost_det.errors import UserError
from tests.conftest import ROOT

FAULTS = ROOT.parent / 'shared/data/faults'
CONFIG = 'retinanet_ghostnet_fpn_lite'
NAMES = [f'im {n}' for n in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('GHOST_DET_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.Random(str(path)).randbytes(40 * 30 * 3)
    Image.frombytes('RGB', (40, 30), pixels).save(path)


def label(path: Path, name: str = 'dog', file: str = '', corners: str = '') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = corners or '<xmin>3.5</xmin><ymin> 2 </ymin><xmax>20</xmax><ymax>15</ymax>'
    box = f'<object><name> {name} </name><bndbox>{corners}</bndbox></object>'
    path.write_text(f'<annotation><filename>{file}</filename>{box}</annotation>')


def voc(root: Path, images: str, labels: str, names: list[str] = NAMES, suffix: str = '.jpg') -> None:
    for number, name in enumerate(names):
        picture(root / images / f'{name}{suffix}')
        label(root / labels / f'{name}.xml', ('dog', 'cat')[number % 2])


def lists(root: Path, **names: list[str]) -> None:
    voc(root, 'JPEGImages', 'Annotations')
    (root / 'ImageSets/Main').mkdir(parents=True)
    for name, lines in names.items():
        (root / f'ImageSets/Main/{name}.txt').write_text(''.join(f'{line}\n' for line in lines))


def yolo(root: Path, images: str, labels: str, classes: str = '') -> None:
    for number in range(10):
        picture(root / images / f'{number}.jpg')
        (root / labels).mkdir(parents=True, exist_ok=True)
        (root / labels / f'{number}.txt').write_text(f'{number % 2} .5 .5 .2 .2\n')
    if classes:
        (root / classes).write_text('dog\ncat\n')


def coco(path: Path, images: Path, count: int = 20, prefix: str = '', captions: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        picture(images / f'{n}.jpg')
    boxes: list[dict[str, Any]] = [
        {'id': n + 1, 'image_id': n, 'category_id': n % 2, 'bbox': [2, 2, 9, 9], 'area': 81, 'iscrowd': 0}
        for n in range(count)
    ]
    if captions:
        boxes = [{'id': n + 1, 'image_id': n, 'caption': 'a dog'} for n in range(count)]
    content = {
        'images': [
            {'id': n, 'file_name': f'{prefix}{n}.jpg', 'width': 40, 'height': 30} for n in range(count)
        ],
        'annotations': boxes,
        'categories': [{'id': 0, 'name': 'dog'}, {'id': 1, 'name': 'cat'}],
    }
    path.write_text(json.dumps(content))
    return path


def counts(data: DetectionData) -> tuple[int, int]:
    assert data.train is not None
    return len(survey(data.train.annotations).table.files), len(survey(data.val.annotations).table.files)


def files(data: DetectionData) -> tuple[set[str], set[str]]:
    assert data.train is not None
    return {*survey(data.train.annotations).table.files}, {*survey(data.val.annotations).table.files}


def _keypoints(root: Path) -> None:
    for split in ('train', 'val'):
        coco(root / f'annotations/person_keypoints_{split}2017.json', root / f'{split}2017', 10)


def _captions(root: Path) -> None:
    for split in ('train', 'val'):
        coco(root / f'annotations/captions_{split}2017.json', root / f'{split}2017', 10, captions=True)
        coco(root / f'annotations/my-{split}.json', root / f'{split}2017', 10)


def _split_folders(root: Path, images: str, labels: str, val: str) -> None:
    for split in ('train', val):
        voc(root, images.format(split), labels.format(split), NAMES[:10])


def _empty_val(root: Path) -> None:
    for split, count in (('train', 20), ('val', 0), ('test', 5)):
        coco(root / f'annotations/instances_{split}.json', root / split, count)


Build = Callable[[Path], object]
MADE = r'there is no val: (\d+) of {} images are taken as it, by a hash of their names \(--val-share 0.2\)$'
UNDERSTOOD: dict[str, tuple[Build, int, int | str, str]] = {
    # of train, of val or of both where val is made, what is said
    'images, annotations': (lambda root: voc(root, 'images', 'annotations'), 20, 'made', MADE),
    'images, annots': (lambda root: voc(root, 'images', 'annots', suffix='.png'), 20, 'made', MADE),
    'JPEGImages, Annotations': (lambda root: voc(root, 'JPEGImages', 'Annotations'), 20, 'made', MADE),
    'xml next to images': (lambda root: voc(root, '.', '.'), 20, 'made', MADE),
    'one level down': (lambda root: voc(root, 'pictures', 'pictures'), 20, 'made', MADE),
    'other names': (lambda root: voc(root, 'photos', 'labels_voc'), 20, 'made', MADE),
    'train list only': (lambda root: lists(root, train=NAMES), 20, 'made', MADE),
    'images/train': (
        lambda root: _split_folders(root, 'images/{}', 'annotations/{}', 'test'),
        10,
        10,
        'there is no val: test is taken as val$',
    ),
    'train/images': (lambda root: _split_folders(root, '{}/images', '{}/annotations', 'valid'), 10, 10, ''),
    'trainval, test': (
        lambda root: lists(root, trainval=NAMES[:15], test=NAMES[15:]),
        15,
        5,
        'ImageSets/Main: there is no val: test is taken as val, and trainval.txt is taken as train$',
    ),
    'trainval, val': (
        lambda root: lists(root, trainval=NAMES, val=NAMES[15:]),
        15,
        5,
        'ImageSets/Main: trainval.txt is taken as train$',
    ),
    'an empty val list': (
        lambda root: lists(root, train=NAMES[:15], val=[], test=NAMES[15:]),
        15,
        5,
        'ImageSets/Main: val is empty: test is taken as val$',
    ),
    'lists of a class': (
        lambda root: lists(root, train=[f'{n}  1' for n in NAMES[:15]], val=[f'{n} -1' for n in NAMES[15:]]),
        15,
        5,
        '',
    ),
    'YOLO without a yaml': (lambda root: yolo(root, 'images', 'labels', 'classes.txt'), 10, 'made', MADE),
    'YOLO of LabelImg': (lambda root: yolo(root, '.', '.', 'classes.txt'), 10, 'made', MADE),
    'YOLO, train only': (
        lambda root: (
            yolo(root, 'images/train', 'labels/train'),
            (root / 'data.yaml').write_text('train: images/train\nnames: [dog, cat]\n'),
        ),
        10,
        'made',
        MADE,
    ),
    'YOLO, val is empty': (
        lambda root: (
            [yolo(root, f'images/{split}', f'labels/{split}') for split in ('train', 'test')],
            (root / 'images/val').mkdir(),
            (root / 'data.yaml').write_text(
                'train: images/train\nval: images/val\ntest: images/test\nnames: [dog, cat]\n'
            ),
        ),
        10,
        10,
        'data.yaml: val is empty: test is taken as val$',
    ),
    'CVAT': (
        lambda root: coco(root / 'annotations/instances_default.json', root / 'images/default'),
        20,
        'made',
        MADE,
    ),
    'Label Studio': (
        lambda root: coco(root / 'result.json', root / 'images', prefix='images/'),
        20,
        'made',
        MADE,
    ),
    'FiftyOne': (lambda root: coco(root / 'labels.json', root / 'data'), 20, 'made', MADE),
    'Roboflow, train only': (
        lambda root: coco(root / 'train/_annotations.coco.json', root / 'train'),
        20,
        'made',
        MADE,
    ),
    'keypoints': (_keypoints, 10, 10, ''),
    'captions': (_captions, 10, 10, ''),
    'an empty val json': (
        _empty_val,
        20,
        5,
        'instances_val.json has no boxes: .*instances_test.json is taken as val$',
    ),
}


@pytest.mark.parametrize('name', UNDERSTOOD)
def test_what_people_have_is_understood(tmp_path: Path, name: str) -> None:
    build, first, second, said = UNDERSTOOD[name]
    root = tmp_path / 'set'
    build(root)
    before = sorted(root.rglob('*'))
    data = find_data(root)
    assert sorted(root.rglob('*')) == before
    train, val = counts(data)
    assert {*data.classes} == {'dog', 'cat'}
    for split in (data.train, data.val):
        assert split is not None
        assert all((split.images / file).is_file() for file in survey(split.annotations).table.files)
    if second == 'made':
        (note,) = data.notes
        found = re.search(said.format(first), note)
        assert found and val == int(found[1]) > 0 and train == first - val > 0
        assert not files(data)[0] & files(data)[1]
    else:
        assert (train, val) == (first, second)
        assert [bool(re.search(said, note)) for note in data.notes] == [True] * bool(said)
    report = check_dataset(root, quick=True)
    assert not report.errors, str(report)
    assert [f.where for f in report.findings if f.kind == 'val was chosen'] == [data.notes][: len(data.notes)]


@pytest.mark.parametrize('name', ['f11_voc_blanks', 'f11_voc_subfolder_png'])
def test_names_with_blanks_and_images_in_folders(name: str) -> None:
    if not FAULTS.is_dir():
        pytest.skip('the small inputs of reported faults are not here')
    report = check_dataset(FAULTS / name)
    assert not report.findings and [len(part.table.boxes) for part in report.parts] == [2, 2]


def test_a_name_that_ends_like_a_flag_is_a_name(tmp_path: Path) -> None:
    voc(tmp_path, 'JPEGImages', 'Annotations', ['photo', 'photo 1', 'photo 0', 'other'])
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/train.txt').write_text('photo\nphoto 1\n')
    (tmp_path / 'ImageSets/Main/val.txt').write_text('photo 0\nother\n')
    train, val = files(find_data(tmp_path))
    assert {Path(file).stem for file in train} == {'photo', 'photo 1'}
    assert {Path(file).stem for file in val} == {'photo 0', 'other'}


def test_xml_files_have_their_images_by_the_name_inside_and_others_are_counted(tmp_path: Path) -> None:
    from ghost_det.data.convert import find_layout

    voc(tmp_path, 'images', 'annotations')
    label(tmp_path / 'annotations/other.xml', file=r'C:\data\im 3.jpg')
    (tmp_path / 'annotations/im 3.xml').unlink()
    label(tmp_path / 'annotations/lost.xml', file='lost.jpg')
    picture(tmp_path / 'images/unlabelled/cat.jpg')  # of a folder without labels, it is no part of the set
    layout = find_layout(tmp_path)
    assert layout is not None and layout.orphans == {'train': [tmp_path / 'annotations/lost.xml']}
    pairs = {image.name: xml.name for image, xml in layout.splits['train']}
    assert len(pairs) == 20 and pairs['im 3.jpg'] == 'other.xml'
    (tmp_path / 'annotations/im 4.xml').unlink()
    said = [(f.kind, f.count) for f in check_dataset(tmp_path, quick=True).findings if 'label' in f.kind]
    assert ('label file without image', 1) in said and ('image without labels', 1) in said


def test_labels_without_image_are_those_of_the_val_that_is_used(tmp_path: Path) -> None:
    for split in ('train', 'valid', 'test'):
        voc(tmp_path / split, 'images', 'annotations')
    label(tmp_path / 'valid/annotations/lost.xml', file='lost.jpg')
    findings = check_dataset(tmp_path, quick=True).findings
    lost = {f.split: f.where for f in findings if f.kind == 'label file without image'}
    assert lost == {'val': (str(Path('valid/annotations/lost.xml')),)}


def test_floats_swapped_corners_and_a_missing_size_of_voc(tmp_path: Path) -> None:
    voc(tmp_path, 'images', 'annotations')
    label(
        tmp_path / 'annotations/im 1.xml',
        corners='<xmin>20</xmin><ymin>15</ymin><xmax>3.5</xmax><ymax>2</ymax>',
    )
    data = find_data(tmp_path)
    for split in (data.train, data.val):
        assert split is not None
        boxes = json.loads(split.annotations.read_text())['annotations']
        assert {tuple(box['bbox']) for box in boxes} == {(2.5, 1, 17.5, 14)}


def test_more_images_change_the_side_of_none_and_copies_stay_together(tmp_path: Path) -> None:
    few = [f'{n}.jpg' for n in range(500)]
    many = [*few, *(f'more/{n}.png' for n in range(500))]
    first, second = val_part(tmp_path, few, 0.2)[0], val_part(tmp_path, many, 0.2)[0]
    assert first == second & {*few} and 70 < len(first) < 130
    assert first < val_part(tmp_path, few, 0.5)[0]
    copies = [f'{n}_jpg.rf.{copy}.jpg' for n in range(100) for copy in 'abc']
    part = val_part(tmp_path, copies, 0.2)[0]
    sides = {name: {each in part for each in copies if each.startswith(f'{name}_')} for name in range(100)}
    assert all(len(side) == 1 for side in sides.values()) and 0 < len(part) < 300
    pairs = [f'{n}.{suffix}' for n in range(100) for suffix in ('jpg', 'png')]
    twins = val_part(tmp_path, pairs, 0.2)[0]  # with one label file
    assert {f'{Path(file).stem}.{suffix}' for file in twins for suffix in ('jpg', 'png')} == twins
    assert val_part(tmp_path, ['a.jpg', 'b.jpg'], 0.001)[0]  # one image, whatever the share
    assert val_part(tmp_path, ['a.jpg'], 0.2) == (set(), '')


def test_classes_of_a_made_val_are_those_of_the_data_set(tmp_path: Path) -> None:
    voc(tmp_path, 'images', 'annotations')
    val = {Path(file).stem for file in files(find_data(tmp_path))[1]}
    for name in val:
        label(tmp_path / f'annotations/{name}.xml', 'owl')  # of which train has none
    data = find_data(tmp_path)
    assert data.classes == ('cat', 'dog', 'owl')
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


def test_errors_in_a_json_are_reported_where_they_are(tmp_path: Path) -> None:
    path = coco(tmp_path / 'result.json', tmp_path / 'images')
    content = json.loads(path.read_text())
    del content['annotations'][7]['bbox']
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"result.json: train: wrong entry .*annotations\[7\] has no 'bbox'"):
        find_data(tmp_path)
    assert 'annotations[7]' in str(check_dataset(tmp_path))


def test_several_jsons_are_not_guessed_at(tmp_path: Path) -> None:
    coco(tmp_path / 'train.json', tmp_path / 'images')
    coco(tmp_path / 'dev.json', tmp_path / 'images')
    with pytest.raises(UserError, match=r'found no val annotations .*\(dev.json, train.json\), only train'):
        find_data(tmp_path)


@pytest.mark.parametrize('depth', ['one', 'one/two/three'])
def test_a_folder_too_high_or_too_low_names_the_right_one(tmp_path: Path, depth: str) -> None:
    voc(tmp_path / depth / 'set', 'images', 'annotations')
    (tmp_path / depth / 'docs').mkdir()
    for wrong in (tmp_path, tmp_path / depth / 'set/images'):
        if depth == 'one' or wrong != tmp_path:
            with pytest.raises(UserError, match=f'another folder:\n  --data {tmp_path / depth / "set"}\n'):
                find_data(wrong)
    with pytest.raises(UserError, match='found no train annotations') as error:
        find_data(tmp_path / depth / 'docs')
    assert f'{depth}/set\n' not in str(error.value)


def test_images_one_folder_too_high_or_too_low_are_found(tmp_path: Path) -> None:
    train = coco(tmp_path / 'set/train.json', tmp_path / 'set/pictures/all')
    val = coco(tmp_path / 'set/val.json', tmp_path / 'set/pictures/all', 3)
    right = tmp_path / 'set/pictures/all'
    (right / 'small').mkdir()
    for wrong in (right.parent, right / 'small', tmp_path / 'set'):
        with pytest.raises(UserError, match=f'they are in {right}: --train-images {right}$'):
            find_data(None, train, wrong, val, right)
        report = check_dataset(None, train, wrong, val, right, quick=True)
        assert [error.kind for error in report.errors] == ['wrong image folder', 'image in both splits'][:1]
    coco(train, right, prefix=r'C:\me\\')
    with pytest.raises(UserError, match=f'0.jpg may be {right}/0.jpg: correct file_name'):
        find_data(None, train, right, val, right)
    coco(train, right)
    for path in right.glob('*.jpg'):
        path.rename(path.with_suffix('.JPG'))
    with pytest.raises(UserError, match=f'may be {right}/.*.JPG: correct file_name'):
        find_data(None, train, right, None, right)


def test_some_missing_images_are_another_message_than_all(tmp_path: Path) -> None:
    coco(tmp_path / 'result.json', tmp_path / 'images')
    (tmp_path / 'images/7.jpg').unlink()
    with pytest.raises(UserError, match=r'missing file \(1\): .*7.jpg'):
        find_data(tmp_path)
    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(UserError, match='20 of its first 20 images are not in .*give their folder'):
        find_data(tmp_path)


def test_the_same_images_in_train_and_val_are_reported_at_once(tmp_path: Path) -> None:
    train = coco(tmp_path / 'train/_annotations.coco.json', tmp_path / 'train')
    val = coco(tmp_path / 'valid/_annotations.coco.json', tmp_path / 'valid', 5)
    for number in range(5):  # the same names are not yet the same images
        Image.effect_noise((40, 30), 9).save(val.parent / f'{number}.bmp')
        Image.effect_noise((40, 30), 9).save(train.parent / f'{number}.bmp')
    content = {path: path.read_text() for path in (train, val)}
    for path, text in content.items():
        path.write_text(re.sub(r'"([0-4]).jpg"', r'"\1.bmp"', text))  # of one size in bytes
    assert not find_data(tmp_path).warnings
    for path, text in content.items():
        path.write_text(text)
    for number in range(5):
        shutil.copy(train.parent / f'{number}.jpg', val.parent)
    assert find_data(tmp_path).warnings == ('image in both splits (5): 0.jpg and 4 more',)
    assert [e.kind for e in check_dataset(tmp_path, quick=True).errors] == ['image in both splits']
    overfit = find_data(None, train, train.parent, train, train.parent)  # on purpose: a warning
    assert overfit.warnings == ('image in both splits (20): 0.jpg and 19 more',)
    report = check_dataset(None, train, train.parent, train, train.parent)
    assert not report.errors and 'image in both splits, 20' in str(report)


def run(*words: str | Path, imports: bool = False) -> subprocess.CompletedProcess[str]:
    python = [sys.executable, *(['-X', 'importtime'] if imports else [])]
    command = [*python, '-m', 'ghost_det_main', *map(str, words)]
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)


@pytest.mark.parametrize(
    'words',
    [
        ('train', CONFIG, '--data'),
        ('test', CONFIG, 'none.pth', '--data'),
        ('export', CONFIG, 'none.pth', '-o', 'none.onnx', '--data'),
        ('check-data',),
        ('check-data', '--config', CONFIG),
    ],
    ids=' '.join,
)
def test_a_refusal_imports_no_torch(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / 'nowhere').mkdir()
    done = run(*words, tmp_path / 'nowhere', imports=True)
    imported = set(re.findall(r'^import time:.*\| +(\w+)$', done.stderr, re.MULTILINE))
    assert done.returncode == 2 and 'layouts understood' in done.stderr, done.stderr[-2000:]
    assert 'argparse' in imported and not imported & {'torch', 'mmdet', 'mmengine', 'mmcv'}


def test_check_data_writes_the_split(tmp_path: Path) -> None:
    voc(tmp_path / 'set', 'images', 'annotations')
    done = run('check-data', tmp_path / 'set', '--val-share', '0.4', '-o', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert 'hash of their names (--val-share 0.4)' in done.stdout
    written = find_data(tmp_path / 'out')
    assert not written.notes and sum(counts(written)) == 20
    expected = files(find_data(tmp_path / 'set', val_share=0.4))
    assert tuple({Path(file).name for file in part} for part in files(written)) == tuple(
        {Path(file).name for file in part} for part in expected
    )
    assert run('check-data', tmp_path / 'out', '--val-share', '1').returncode == 2


def test_splits_in_upper_case_are_those_of_the_author(tmp_path: Path) -> None:
    voc(tmp_path, 'Train', 'Train', NAMES[:15])
    voc(tmp_path, 'Valid', 'Valid', NAMES[15:])
    data = find_data(tmp_path)
    assert data.train is not None and not data.notes
    assert {*survey(data.val.annotations).table.files} == {f'Valid/{name}.jpg' for name in NAMES[15:]}
    assert len(survey(data.train.annotations).table.files) == 15


def test_a_second_data_set_in_the_folder_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    two = tmp_path / 'two'
    for year in ('VOC2007', 'VOC2012'):
        lists(two / year, train=NAMES[:15], val=NAMES[15:])
    both = tmp_path / 'both'
    voc(both, 'images', 'annotations')
    (both / 'classes.txt').write_text('dog\n')
    (both / 'labels').mkdir()
    (both / f'labels/{NAMES[0]}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    for root, said in ((two, f'{two / "VOC2012"}: {two / "VOC2007"} is read'), (both, 'YOLO labels: ')):
        assert any('data not used' in line and said in line for line in find_data(root).warnings)
        (told,) = (f for f in check_dataset(root, quick=True).findings if f.kind == 'data not used')
        assert told.count == 1
    shutil.rmtree(two / 'VOC2012')
    (both / 'classes.txt').unlink()
    assert not any('data not used' in line for root in (two, both) for line in find_data(root).warnings)


def test_pipes_and_names_that_no_file_can_have_stop_nothing(tmp_path: Path) -> None:
    voc(tmp_path / 'voc', 'images', 'annotations')
    os.mkfifo(tmp_path / 'voc/annotations/pipe.xml')
    os.mkfifo(tmp_path / 'voc/pipe.json')
    assert check_dataset(tmp_path / 'voc', quick=True).parts
    yolo = tmp_path / 'yolo'
    for name in NAMES:
        picture(yolo / f'images/{name}.jpg')
    (yolo / 'labels').mkdir()
    (yolo / f'labels/{NAMES[0]}.txt').write_text('0 0.5 0.5 0.5 0.5\n')
    os.mkfifo(yolo / 'labels/pipe.txt')
    (yolo / 'list.txt').write_text('\n'.join(['x' * 5000, 'a\0b', *(f'images/{name}.jpg' for name in NAMES)]))
    (yolo / 'data.yaml').write_text('train: [list.txt, images]\nnames: [dog]\n')
    findings = check_dataset(yolo, quick=True).findings
    assert [f.count for f in findings if f.kind == 'missing file'] == [2]
    bare = [place for f in findings if f.kind == 'image without labels' for place in f.where]
    assert f'images/{NAMES[1]}.jpg: no labels/{NAMES[1]}.txt' in bare


def test_folders_named_in_capitals_are_found(tmp_path: Path) -> None:
    coco(tmp_path / 'Annotations/instances_train.json', tmp_path / 'Images/train')
    coco(tmp_path / 'Annotations/instances_val.json', tmp_path / 'Images/val', 3)
    assert counts(find_data(tmp_path)) == (20, 3)
    coco(tmp_path / 'one/Annotations/all.json', tmp_path / 'one/Images')
    assert sum(counts(find_data(tmp_path / 'one'))) == 20


def test_names_in_another_letter_case_name_the_file(tmp_path: Path) -> None:
    train = coco(tmp_path / 'train.json', tmp_path / 'train')
    train.write_text(train.read_text().replace('.jpg', '.JPG'))
    coco(tmp_path / 'val.json', tmp_path / 'val', 3)
    with pytest.raises(UserError, match=f'0.JPG may be {tmp_path}/train/0.jpg: correct file_name'):
        find_data(tmp_path)


@pytest.mark.parametrize(
    ('file', 'content', 'says'),
    [
        ('a.json', {'shapes': [], 'imagePath': 'a.jpg'}, 'LabelMe: its examples'),
        ('train.json', [{'result': [{'original_width': 64, 'original_height': 48}]}], 'Label Studio: export'),
        ('via.json', {'a.jpg9': {'regions': [{'shape_attributes': {'x': 5}}]}}, 'VGG Image Annotator'),
        ('a.json', [{'image': 'a.jpg', 'annotations': [{'coordinates': {'x': 1}}]}], 'CreateML: convert'),
        ('annotations.xml', '<annotations><image id="0"></image></annotations>', 'CVAT XML: export'),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, file: str, content: Any, says: str) -> None:
    (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    picture(tmp_path / 'images/a.jpg')
    with pytest.raises(UserError, match=f'{file} is of {says}'):
        find_data(tmp_path)

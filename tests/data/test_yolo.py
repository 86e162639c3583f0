"""YOLO: boxes, polygons and keypoints, wrong files, where images and labels are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError

from .makers import PLACES, read_boxes, tree, voc, yolo_pair

ONE_CLASS = f'{PLACES}names: [cat]\n'
ROW, BOX = '0 0.5 0.5 0.4 0.4\n', [('cat', [3, 3, 4, 4])]
pytestmark = pytest.mark.usefixtures('cache')


def test_boxes_and_polygons_are_of_upright_images(tmp_path: Path) -> None:
    rows = '0 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.9 0.1 0.9 0.8\n1 0.1 0.1 0.9 0.1 0.9 0.8 0.5 0.5\n'
    root = yolo_pair(tmp_path / 'set', f'path: {tmp_path}/set\n{PLACES}names: {{0: cat, 1: dog}}\n', rows)
    polygon = ('dog', [3, 4, 24, 28])
    assert read_boxes(root)['a.jpg'] == [('cat', [7.5, 10, 15, 20]), polygon, polygon]
    report = check_dataset(root, quick=True)
    assert not report.errors and (report.parts[0].table.sizes == [30, 40]).all()


@pytest.mark.parametrize(
    'row',
    [
        *('1 .5 .5 .5 .5', '-1 .5 .5 .5 .5', '0.5 .5 .5 .5 .5', 'cat .5 .5 .5 .5', '1e99 .5 .5 .5 .5'),
        *('0 .5 .5 .5 -.5', '0 .5 .5 nan .5', '0 .5 .5', '0 1.5 .5 .2 .2'),
        '0 0.1 0.1 0.9 0.1 0.9 7\n0 0.1 0.1 0.9 0.1 0.9 0.9 0.5 0.5',
        '0 0.1 0.1 0.9 0.1 0.9 0.8 0.2\n0 0.1 0.1 0.9 0.1 0.9 0.9 0.5 0.5',
    ],
)
def test_wrong_rows_are_named_and_leave_the_others(tmp_path: Path, row: str) -> None:
    good = '0 0.5 0.5 0.5 0.5 0.93\n\n0 0.5 0.5 1 1.004\n'  # the first has a confidence
    report = check_dataset(yolo_pair(tmp_path / 'set', ONE_CLASS, f'{good}{row}\n'), quick=True)
    (finding,) = (each for each in report.errors if each.split == 'train')
    assert (finding.kind, finding.count) == ('wrong label file', 1)
    assert finding.where[0].startswith('labels/train/a.txt of images/train/a.jpg: line 4: ')
    boxes = report.parts[0].table.boxes
    assert len(boxes) == 2 + row.count('\n')
    np.testing.assert_allclose(boxes[:2], [[7.5, 10, 15, 20], [0, -0.08, 30, 40.16]], atol=1e-3)


POSES = {
    '[2, 2]': '0 0.4 0.45 0.4 0.6 0.35 0.40 0.45 0.50\n',  # as many numbers as four corners
    '[4, 3]': '0 0.4 0.45 0.4 0.6 0.35 0.40 2 0.45 0.50 2 0 0 0 0.4 0.4 1\n',
}


@pytest.mark.parametrize('shape', POSES)
def test_rows_with_keypoints_are_boxes_or_refused(tmp_path: Path, shape: str) -> None:
    rows = f'{POSES[shape]}0 0.5 0.5 1 1\n'
    root = yolo_pair(tmp_path / 'set', f'kpt_shape: {shape}\n{ONE_CLASS}', rows)
    assert read_boxes(root)['a.jpg'] == [('cat', [6, 6, 12, 24]), ('cat', [0, 0, 30, 40])]
    for line, message in (('', 'kpt_shape'), ('[9, 3]', 'wrong label file'), ('17', 'kpt_shape')):
        (root / 'data.yaml').write_text(f'kpt_shape: {line}\n{ONE_CLASS}' if line else ONE_CLASS)
        with pytest.raises(UserError, match=message):
            find_data(root)
    root = yolo_pair(tmp_path / 'set', f'kpt_shape: [0, 0]\n{ONE_CLASS}', POSES['[2, 2]'])
    assert read_boxes(root) == {'a.jpg': [('cat', [10.5, 16, 3, 8])]}  # a polygon


@pytest.mark.parametrize(
    ('train', 'image', 'file'),
    [
        ('train', 'train/images/a.png', 'train/labels/a.txt'),
        ('train', 'train/images/x/images/a.png', 'train/images/x/labels/a.txt'),  # the last one
        ('train', 'train/a.png', 'train/a.txt'),  # in a folder below another "images"
        ('train/images', 'train/images/a.b.png', 'train/images/a.b.txt'),  # next to the image
    ],
)
def test_labels_are_found_from_the_path_of_each_image(
    tmp_path: Path, train: str, image: str, file: str
) -> None:
    yaml = f'train: {train}\nval: {train}\nnames: [cat]\n'
    root = tree(tmp_path / 'images/set', {'data.yaml': yaml, file: ROW}, image)
    assert read_boxes(root) == {Path(image).name: BOX}
    assert find_data(root).warnings == (f'image in both splits (1): {image}',)


def test_lists_of_folders_and_of_images(tmp_path: Path) -> None:
    """As COCO's own yaml has it, mixed with a list of folders."""
    labels = {
        'data.yaml': 'path: .\ntrain: [lists/train.txt, more/images, more/images]\n'
        'val: val.txt\nnames: [cat]\n',
        'lists/train.txt': './images/train/a.png\n\n./images/train/gone.png\r\nmore/images/c.png\n',
        'val.txt': f'./images/val/b.png\n{tmp_path}/set/lists/images/train/a.png\n',
        **dict.fromkeys(('lists/labels/train/a.txt', 'more/labels/c.txt', 'labels/val/b.txt'), ROW),
        'lists/labels/train/unlisted.txt': ROW,  # not in a list, but its image exists
    }
    images = 'lists/images/train/a.png lists/images/train/unlisted.png more/images/c.png images/val/b.png'
    root = tree(tmp_path / 'set', labels, images)
    report = check_dataset(root, quick=True)
    (finding,) = (error for error in report.errors if error.kind != 'image in both splits')
    assert (finding.kind, finding.where) == ('missing file', ('lists/images/train/gone.png',))
    assert not [each for each in report.findings if 'label' in each.kind]
    shutil.copy(root / 'lists/images/train/a.png', root / 'lists/images/train/gone.png')
    assert read_boxes(root) == {'a.png': BOX, 'gone.png': [], 'c.png': BOX}
    assert read_boxes(root, 'val') == {'b.png': BOX, 'a.png': BOX}


def test_another_yaml_is_ignored_or_can_be_named(tmp_path: Path) -> None:
    root = yolo_pair(tmp_path / 'set', ONE_CLASS)
    others = {'a.yaml': 'train: [images\n', 'also.yaml': f'{PLACES}names: [dog]\n', 'z.yml': 'names: [x]\n'}
    tree(root, others)
    assert find_data(root).classes == ('cat',)
    data = find_data(root / 'also.yaml')
    assert data.classes == ('dog',) and data.val.images == root
    assert find_data(root).classes == ('cat',) and data.val.annotations.exists()  # each has its own copy
    with pytest.raises(UserError, match='z.yml: '):
        find_data(root / 'z.yml')
    for name in ('data.yaml', 'also.yaml'):
        (root / name).unlink()
    voc(root / 'train', '.', '.', ['a', 'b'])
    voc(root / 'valid', '.', '.', ['c', 'd'])
    assert find_data(root).classes == ('cat', 'dog')


@pytest.mark.parametrize(('form', 'encoding'), [('list', 'utf-8-sig'), ('mapping', 'utf-16')])
def test_names_of_classes_stay_as_they_are_written(tmp_path: Path, form: str, encoding: str) -> None:
    names = 'yes no On 007 12:30 1e3 null ~ 2024-01-31 0x1F 1_000 .5 true größe'.split()
    text = f'[{", ".join(names)}]'
    if form == 'mapping':
        text = ''.join(f'\n  {n}: {name}' for n, name in enumerate(names))
    rows = ''.join(f'{n} 0.5 0.5 0.5 0.5\r\n' for n in range(len(names)))
    yaml = f'path: ~\ntrain: train.txt\nval: train.txt\ntest: null\nnames: {text}\n'
    root = tree(yolo_pair(tmp_path / 'set', yaml, rows), {'train.txt': './images/train/a.jpg\n'})
    for path in (root / 'data.yaml', root / 'train.txt', root / 'labels/train/a.txt'):
        path.write_bytes(path.read_text(encoding='utf-8').encode(encoding))
    assert [name for name, _ in read_boxes(root)['a.jpg']] == names == [*find_data(root).classes]


LAUGHS = 'a0: &a0 [ha, ha]\n' + ''.join(f'a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 31))


@pytest.mark.parametrize(
    'yaml',
    [
        'train: images/nowhere\nval: images/val\nnames: [cat]\n',
        f'{PLACES}names: cat\n',
        'train: [images\n',
        f'{PLACES}names: {"[" * 500 + "]" * 500}\n',
        f'{PLACES}names: !!python/object/apply:os.abort []\n',
        f'{PLACES}names: {{1: cat}}\n',
        f'{LAUGHS}{PLACES}names: *a30\n',
        'train: /other/images\nval: /other/images\nnames: [cat]\n',  # its end would be both splits
    ],
)
def test_a_wrong_yaml_is_named(tmp_path: Path, yaml: str) -> None:
    with pytest.raises(UserError, match='data.yaml: ') as error:
        find_data(yolo_pair(tmp_path / 'set', yaml))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize('base', ['/content/set-1', 'C:\\me\\set-1'])
def test_paths_of_another_machine_lead_to_the_same_folders_here(tmp_path: Path, base: str) -> None:
    yaml = f'train: {base}/images/train\nval: {base}/images/val\nnames: [cat]\n'
    assert [*read_boxes(yolo_pair(tmp_path, yaml))] == ['a.jpg']


def test_files_without_their_partners_are_counted(tmp_path: Path) -> None:
    root = yolo_pair(tmp_path / 'set', ONE_CLASS)
    tree(root, {'labels/train/b.txt': ROW, 'labels/train/classes.txt': 'cat\n'}, 'images/train/e.png')
    findings = [each for each in check_dataset(root, quick=True).findings if 'label' in each.kind]
    assert [(each.kind, each.severity, each.where) for each in findings] == [
        ('label file without image', 'warning', ('labels/train/b.txt',)),
        ('image without labels', 'warning', ('images/train/e.png: no labels/train/e.txt',)),
    ]
    for n in range(9):  # one of eleven is background
        tree(root, {f'labels/train/{n}.txt': ROW}, f'images/train/{n}.png')
    (second,) = (f for f in check_dataset(root, quick=True).findings if f.kind == 'image without labels')
    assert (second.severity, second.count) == ('note', 1)
    tree(root, {}, 'images/train/b.png')  # which is another result, though no label changed
    assert len(read_boxes(root)['b.png']) == 1
    kinds = {error.kind for error in check_dataset(yolo_pair(root, ONE_CLASS, ''), quick=True).errors}
    assert kinds == {'no boxes'}

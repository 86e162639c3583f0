"""Pascal VOC and YOLO: there and back, wrong files, bombs, the cache."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data
from ghost_det.data.layouts import locate
from ghost_det.errors import UserError

from .makers import NAMES, PLACES, label, picture, thing, tree, voc, voc_lists, yolo_pair

ONE_CLASS = f'{PLACES}names: [cat]\n'
ROW, BOX = '0 0.5 0.5 0.4 0.4\n', [3, 3, 4, 4]


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


def content_of(root: Path, split: str = 'train') -> dict[str, Any]:
    """The converted annotations."""
    _, parts, _ = locate(root, {'train': (None, None), 'val': (None, None)})
    content: dict[str, Any] = json.loads(parts[split][0].read_text())
    return content


def read_boxes(root: Path, split: str = 'train') -> dict[str, list[list[float]]]:
    """Boxes in px by file name, as a training would get them."""
    data = find_data(root)
    assert data.train is not None
    annotations = data.train.annotations if split == 'train' else data.val.annotations
    return {
        file: [[round(v, 3) for v in box] for _, box in boxes]
        for file, boxes in boxes_of(json.loads(annotations.read_text())).items()
    }


def export(coco: Path, out: Path, layout: str) -> None:
    """Write the two splits of a COCO folder as VOC, in whole pixels, or as YOLO, in five digits."""
    for split, name in (('train', 'train'), ('val', 'valid')):
        source = json.loads((coco / f'annotations/instances_{split}2017.json').read_text())
        classes = [category['name'] for category in source['categories']]
        index = {category['id']: number for number, category in enumerate(source['categories'])}
        images, labels = (out / name / (part if layout == 'yolo' else '') for part in ('images', 'labels'))
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
        for image in source['images']:
            shutil.copy(coco / f'{split}2017' / image['file_name'], images)
            size = np.array([image['width'], image['height']])
            lines = []
            for box in (each for each in source['annotations'] if each['image_id'] == image['id']):
                low, sides = np.split(np.array(box['bbox']), 2)
                row = np.hstack([low + sides / 2, sides]) / np.tile(size, 2)
                corners = np.hstack([np.round(low) + 1, np.round(low + sides)])
                number = index[box['category_id']]
                line = f'{number} {" ".join(f"{value:.5f}" for value in row)}\n'
                lines.append(line if layout == 'yolo' else thing(classes[number], *corners))
            text = ''.join(lines) if layout == 'yolo' else f'<annotation>{"".join(lines)}</annotation>'
            file = Path(image['file_name']).with_suffix('.txt' if layout == 'yolo' else '.xml')
            (labels / file).write_text(text)
    if layout == 'yolo':
        (out / 'data.yaml').write_text(
            f'names: {json.dumps(classes)}\ntrain: ../train/images\nval: ../valid/images\n'
        )


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
            if boxes:
                ours, theirs = (np.array([b for _, b in each]) for each in (after[file], boxes))
                # VOC has whole pixels: corners within half of one, and no box of less than one.
                corners = [np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]) for b in (ours, theirs)]
                largest = max(largest, np.abs(corners[0] - corners[1]).max())
                compared += len(boxes)
    assert compared == 1363
    assert largest <= (0.5 if layout == 'voc' else 1e-2)
    assert not check_dataset(folder, quick=True).errors


@pytest.mark.parametrize('lists', [False, True])
def test_voc_counts_pixels_from_one(tmp_path: Path, lists: bool) -> None:
    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:]) if lists else voc(tmp_path, 'a', 'a')
    file = tmp_path / ('Annotations' if lists else 'a') / 'im 1.xml'
    label(file, thing('dog', 1, 1, 40, 30), thing('cat', 20, 15, 11, 6, difficult=1))  # swapped corners
    boxes = boxes_of(content_of(tmp_path))['im 1.jpg']
    assert boxes == [('dog', [0, 0, 40, 30]), ('cat', [10, 5, 10, 10])]
    crowds = [box['iscrowd'] for box in content_of(tmp_path)['annotations']]
    assert sum(crowds) == 1  # difficult ones are not counted


BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;">]><annotation><object><name>&d;</name></object></annotation>'
)
OUTSIDE = (
    '<!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    '<annotation><object><name>&x;</name></object></annotation>'
)


@pytest.mark.parametrize(
    'xml',
    [
        BOMB,
        OUTSIDE,
        '<annotation><object>',
        '<annotation><object><name>dog</name></object></annotation>',
        ' ' * (2**24 + 1),
        '<annotations/>',
        f'<annotation>{thing("", 1, 1, 9, 9)}</annotation>',
        f'<annotation>{thing("dog", 1, 1, 9)}</annotation>',
        f'<annotation>{thing("dog", 1, 1, float("nan"), 9)}</annotation>',
        f'<annotation>{thing("dog", 1, 1, float("inf"), 9)}</annotation>',
        f'<annotation>{thing("dog", 1, 1, 9, 9).replace("> 1", ">a", 1)}</annotation>',
    ],
)
def test_wrong_xml_files_are_named(tmp_path: Path, xml: str) -> None:
    voc(tmp_path / 'train', '.', '.', ['a', 'b'])
    voc(tmp_path / 'valid', '.', '.', ['c', 'd'])
    (tmp_path / 'train/b.xml').write_text(xml)
    (finding,) = check_dataset(tmp_path).errors
    assert (finding.kind, finding.split) == ('wrong label file', 'train')
    assert finding.where[0].startswith('train/b.xml of train/b.jpg: ')
    with pytest.raises(UserError, match=r'train: wrong label file \(1\): train/b.xml'):
        find_data(tmp_path)


def test_yolo_is_read_in_upright_images(tmp_path: Path) -> None:
    polygons = '1 0.1 0.1 0.9 0.1 0.9 0.8\n1 0.1 0.1 0.9 0.1 0.9 0.8 0.5 0.5\n'
    yaml = f'path: {tmp_path}/set\n{PLACES}names: {{0: cat, 1: dog}}\n'
    root = yolo_pair(tmp_path / 'set', yaml, f'0 0.5 0.5 0.5 0.5\n{polygons}')
    assert find_data(root).classes == ('cat', 'dog')
    assert [(i['width'], i['height']) for i in content_of(root)['images']] == [(30, 40)]
    assert read_boxes(root)['a.jpg'] == [[7.5, 10, 15, 20], [3, 4, 24, 28], [3, 4, 24, 28]]
    report = check_dataset(root)
    assert not report.errors and 'EXIF rotation' in str(report)


@pytest.mark.parametrize(
    'row',
    [
        '5 0.5 0.5 0.5 0.5',
        '1 0.5 0.5 0.5 0.5',
        '-1 0.5 0.5 0.5 0.5',
        '0.5 0.5 0.5 0.5 0.5',
        'cat 0.5 0.5 0.5 0.5',
        '0 0.5 0.5 0.5 -0.5',
        '0 0.5 0.5 nan 0.5',
        '0 0.5 0.5',
        '99999999999999999999 0.5 0.5 0.5 0.5',
        '0 1.5 0.5 0.2 0.2',
        '0 0.1 0.1 0.9 0.1 0.9 7\n0 0.1 0.1 0.9 0.1 0.9 0.9 0.5 0.5',
        '0 0.1 0.1 0.9 0.1 0.9 0.8 0.2\n0 0.1 0.1 0.9 0.1 0.9 0.9 0.5 0.5',
    ],
)
def test_wrong_rows_of_yolo_are_named_and_leave_the_others(tmp_path: Path, row: str) -> None:
    good = '0 0.5 0.5 0.5 0.5 0.93\n\n0 0.5 0.5 1 1.004\n'  # the first has a confidence
    root = yolo_pair(tmp_path / 'set', ONE_CLASS, f'{good}{row}\n')
    (finding,) = (f for f in check_dataset(root).errors if f.split == 'train')
    assert (finding.kind, finding.count) == ('wrong label file', 1)
    assert finding.where[0].startswith('labels/train/a.txt of images/train/a.jpg: line 4: ')
    boxes = [[round(v, 2) for v in box['bbox']] for box in content_of(root)['annotations']]
    assert boxes[:2] == [[7.5, 10, 15, 20], [0, -0.08, 30, 40.16]] and len(boxes) == 2 + row.count('\n')


def test_labels_without_boxes_are_nothing_to_learn_from(tmp_path: Path) -> None:
    kinds = {f.kind for f in check_dataset(yolo_pair(tmp_path / 'set', ONE_CLASS, ''), quick=True).errors}
    assert 'no boxes' in kinds


POSES = {
    '[2, 2]': '0 0.4 0.45 0.4 0.6 0.35 0.40 0.45 0.50\n',  # as many numbers as four corners
    '[4, 3]': '0 0.4 0.45 0.4 0.6 0.35 0.40 2 0.45 0.50 2 0 0 0 0.4 0.4 1\n',
    '[1, 2]': '0 0.4 0.45 0.4 0.6 0.35 0.40\n',
}


@pytest.mark.parametrize('shape', POSES)
def test_rows_with_keypoints_are_boxes_or_refused(tmp_path: Path, shape: str) -> None:
    row = POSES[shape]
    x, y, width, height = map(float, row.split()[1:5])
    declared = f'{PLACES}kpt_shape: {shape}\nnames: [cat]\n'
    said = yolo_pair(tmp_path / 'said', declared, f'{row}0 0.5 0.5 1 1\n')
    expected = [(x - width / 2) * 30, (y - height / 2) * 40, width * 30, height * 40]
    np.testing.assert_allclose(read_boxes(said)['a.jpg'], [expected, [0, 0, 30, 40]], atol=1e-3)
    unsaid = yolo_pair(tmp_path / 'unsaid', ONE_CLASS, row)
    for call in (find_data, check_dataset):
        with pytest.raises(UserError, match=re.escape(f'"kpt_shape: {shape}"')):
            call(unsaid)
    other = yolo_pair(tmp_path / 'other', f'{PLACES}kpt_shape: [9, 3]\nnames: [cat]\n', row)
    with pytest.raises(UserError, match='wrong label file'):
        find_data(other)


def test_polygons_of_one_length_can_be_declared(tmp_path: Path) -> None:
    root = yolo_pair(tmp_path / 'set', f'{PLACES}kpt_shape: [0, 0]\nnames: [cat]\n', POSES['[2, 2]'])
    assert read_boxes(root) == {'a.jpg': [[10.5, 16, 3, 8]]}
    (root / 'data.yaml').write_text(f'{PLACES}kpt_shape: 17\nnames: [cat]\n')
    with pytest.raises(UserError, match='kpt_shape'):
        find_data(root)


def test_polygons_of_coco_are_polygons(coco_mini: Path, tmp_path: Path) -> None:
    before: dict[str, list[Any]] = {}
    for split in ('train', 'val'):
        source = json.loads((coco_mini / f'annotations/instances_{split}2017.json').read_text())
        ids = {category['id']: n for n, category in enumerate(source['categories'])}
        (tmp_path / split).mkdir()
        (tmp_path / split / 'images').symlink_to(coco_mini / f'{split}2017')
        images = {image['id']: image for image in source['images']}
        rows: dict[int, str] = dict.fromkeys(images, '')
        for box in source['annotations']:
            if isinstance(box['segmentation'], list):
                image = images[box['image_id']]
                points = np.array(max(box['segmentation'], key=len)).reshape(-1, 2)
                shares = (points / (image['width'], image['height'])).ravel()
                rows[image['id']] += f'{ids[box["category_id"]]} {" ".join(f"{v:.6f}" for v in shares)}\n'
                before.setdefault(image['file_name'], []).append([*points.min(0), *np.ptp(points, axis=0)])
        for number, text in rows.items():
            name = Path(images[number]['file_name']).with_suffix('.txt')
            tree(tmp_path, {f'{split}/labels/{name}': text})
    names = '\n'.join(f'  {n}: "{category["name"]}"' for n, category in enumerate(source['categories']))
    tree(tmp_path, {'data.yaml': f'train: train/images\nval: val/images\nnames:\n{names}\n'})
    after = read_boxes(tmp_path, 'train') | read_boxes(tmp_path, 'val')
    for name, boxes in before.items():
        np.testing.assert_allclose(after[name], boxes, atol=2e-3)
    assert sum(map(len, before.values())) == 1350


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
    assert read_boxes(root) == {Path(image).name: [BOX]}
    assert find_data(root).warnings == (f'image in both splits (1): {image}',)


def test_lists_of_folders_and_of_images(tmp_path: Path) -> None:
    """As COCO's own yaml has it, mixed with a list of folders."""
    yaml = 'path: .\ntrain: [lists/train.txt, more/images, more/images]\nval: val.txt\nnames: [cat]\n'
    labels = {
        'data.yaml': yaml,
        'lists/train.txt': './images/train/a.png\n\n./images/train/gone.png\r\nmore/images/c.png\n',
        'val.txt': f'./images/val/b.png\n{tmp_path}/set/lists/images/train/a.png\n',
        **dict.fromkeys(('lists/labels/train/a.txt', 'more/labels/c.txt', 'labels/val/b.txt'), ROW),
        # Not in a list, but its image exists.
        'lists/labels/train/unlisted.txt': ROW,
    }
    images = 'lists/images/train/a.png lists/images/train/unlisted.png more/images/c.png images/val/b.png'
    root = tree(tmp_path / 'set', labels, images)
    report = check_dataset(root, quick=True)
    (finding,) = (error for error in report.errors if error.kind != 'image in both splits')
    assert (finding.kind, finding.split, finding.count) == ('missing file', 'train', 1)
    assert finding.where == ('lists/images/train/gone.png',)
    assert not [f for f in report.findings if 'label' in f.kind]
    (root / 'lists/images/train/gone.png').write_bytes((root / 'lists/images/train/a.png').read_bytes())
    assert read_boxes(root) == {'a.png': [BOX], 'gone.png': [], 'c.png': [BOX]}
    assert read_boxes(root, 'val') == {'b.png': [BOX], 'a.png': [BOX]}


def test_links_are_followed_and_hidden_files_are_no_data(tmp_path: Path) -> None:
    yaml = 'train: train/images\nval: train/images\nnames: [cat]\n'
    labels = {'data.yaml': yaml, 'train/labels/a.txt': ROW, 'more/labels/b.txt': ROW}
    labels |= {
        name: '\0\5\x16\7\0' for name in ('._data.yaml', 'train/images/._a.jpg', 'train/labels/._a.txt')
    }
    root = tree(tmp_path / 'set', labels, 'train/images/a.png more/images/b.png train/images/.x/a.jpg')
    for kind in ('images', 'labels'):
        (root / f'train/{kind}/part').symlink_to(f'../../more/{kind}')
        (root / f'train/{kind}/loop').symlink_to('..')
    assert read_boxes(root) == {'a.png': [BOX], 'b.png': [BOX]}
    assert find_data(root).warnings == ('image in both splits (2): train/images/a.png and 1 more',)
    (root / 'train/images/lost.png').symlink_to('nowhere.png')
    (finding,) = (f for f in check_dataset(root, quick=True).errors if f.split == 'train')
    assert finding.kind == 'missing file' and finding.where == ('train/images/lost.png',)


def test_another_yaml_is_ignored_or_can_be_named(tmp_path: Path) -> None:
    root = yolo_pair(tmp_path / 'set', ONE_CLASS)
    tree(
        root, {'a.yaml': 'train: [images\n', 'other.yaml': f'{PLACES}names: [dog]\n', 'z.yml': 'names: [x]\n'}
    )
    assert find_data(root).classes == ('cat',)
    data = find_data(root / 'other.yaml')
    assert data.classes == ('dog',) and data.val.images == root
    with pytest.raises(UserError, match=r'z\.yml: expected a YOLO data.yaml'):
        find_data(root / 'z.yml')
    (root / 'data.yaml').write_text('train: [images\n')
    with pytest.raises(UserError, match=r'data\.yaml: cannot be read'):
        find_data(root)
    for name in ('data.yaml', 'other.yaml'):
        (root / name).unlink()
    voc(root / 'train', '.', '.', ['a', 'b'])
    voc(root / 'valid', '.', '.', ['c', 'd'])
    assert find_data(root).classes == ('cat', 'dog')


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_byte_order_marks_of_windows(tmp_path: Path, encoding: str) -> None:
    yaml = 'train: train.txt\nval: train.txt\nnames: [größe]\n'
    root = yolo_pair(tmp_path / 'set', yaml, '0 0.5 0.5 1 1\r\n')
    (root / 'train.txt').write_text('./images/train/a.jpg\n')
    for path in (root / 'data.yaml', root / 'train.txt', root / 'labels/train/a.txt'):
        path.write_bytes(path.read_text(encoding='utf-8').encode(encoding))
    assert read_boxes(root) == {'a.jpg': [[0, 0, 30, 40]]} and find_data(root).classes == ('größe',)


@pytest.mark.parametrize('form', ['list', 'mapping'])
def test_names_of_classes_stay_as_they_are_written(tmp_path: Path, form: str) -> None:
    names = 'yes no On 007 12:30 1e3 null ~ 2024-01-31 0x1F 1_000 .5 true'.split()
    text = f'[{", ".join(names)}]'
    if form == 'mapping':
        text = ''.join(f'\n  {n}: {name}' for n, name in enumerate(names))
    rows = ''.join(f'{n} 0.5 0.5 0.5 0.5\n' for n in range(len(names)))
    root = yolo_pair(tmp_path / 'set', f'path: ~\n{PLACES}test: null\nnames: {text}\n', rows)
    assert find_data(root).classes == tuple(names)


def test_files_without_their_partners_are_counted(tmp_path: Path) -> None:
    root = yolo_pair(tmp_path / 'set', ONE_CLASS)
    labels = {'labels/train/b.txt': f'\n{ROW}', 'labels/val/d.txt': '', 'labels/train/classes.txt': 'cat\n'}
    tree(root, labels, 'images/train/e.png')
    report = check_dataset(root, quick=True)
    first, second = (f for f in report.findings if 'label' in f.kind)
    assert (first.kind, first.severity, first.split) == ('label file without image', 'warning', 'train')
    assert first.where == ('labels/train/b.txt',)
    assert (second.kind, second.severity) == ('image without labels', 'warning')
    assert second.where == ('images/train/e.png: no labels/train/e.txt',)
    assert [line for line in find_data(root).warnings if 'label' in line] == [first.line(), second.line()]
    for n in range(9):  # one of eleven is background
        tree(root, {f'labels/train/{n}.txt': ROW}, f'images/train/{n}.png')
    (second,) = (f for f in check_dataset(root, quick=True).findings if f.kind == 'image without labels')
    assert second.severity == 'note' and second.count == 1
    assert not any('image without labels' in line for line in find_data(root).warnings)
    tree(root, {}, 'images/train/b.png')  # which is another result, though no label changed
    assert len(read_boxes(root)['b.png']) == 1


LAUGHS = 'a0: &a0 [ha, ha]\n' + ''.join(f'a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 31))


@pytest.mark.parametrize(
    'yaml',
    [
        'train: images/nowhere\nval: images/val\nnames: [cat]\n',
        f'{PLACES}names: cat\n',
        'train: [images\n',
        f'{PLACES}names: {"[" * 5000 + "]" * 5000}\n',
        f'{PLACES}names: !!python/object/apply:os.abort []\n',
        f'{PLACES}names: {{100000000000: cat}}\n',
        f'{PLACES}names: {{-1: cat}}\n',
        f'{LAUGHS}{PLACES}names: *a30\n',
        f'{LAUGHS}{PLACES}names: {{cat: *a30}}\n',
        f'{LAUGHS}train: *a30\nval: images/val\nnames: [cat]\n',
        f'{LAUGHS}path: *a30\n{PLACES}names: [cat]\n',
    ],
)
def test_a_wrong_yaml_is_named(tmp_path: Path, yaml: str) -> None:
    with pytest.raises(UserError, match='data.yaml: ') as error:
        find_data(yolo_pair(tmp_path / 'set', yaml))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize('base', ['/content/set-1', 'C:\\me\\set-1'])
def test_paths_of_another_machine_lead_to_the_same_folders_here(tmp_path: Path, base: str) -> None:
    places = ''.join(f'{name}: {base}/images/{name}\n' for name in ('train', 'val'))
    root = yolo_pair(tmp_path / 'set', f'{places}names: [cat]\n')
    assert set(read_boxes(root)) == {*os.listdir(root / 'images/train')}
    (root / 'data.yaml').write_text('train: /other/images\nval: /other/images\nnames: [cat]\n')
    with pytest.raises(UserError, match='data.yaml: train is'):  # it would be both splits
        find_data(root)


@pytest.mark.skipif(sys.platform == 'darwin', reason='its file systems refuse such names')
def test_names_that_are_no_text(tmp_path: Path) -> None:
    report = check_dataset(voc(tmp_path / os.fsdecode(b'set\xff'), '.', '.'), quick=True)
    assert not report.errors and r'set\udcff' in str(report)
    str(report).encode()


def test_an_image_of_any_claimed_size_is_named(tmp_path: Path) -> None:
    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:])
    path = tmp_path / 'JPEGImages/im 1.jpg'
    content = bytearray(path.read_bytes())
    frame = content.index(b'\xff\xc0')
    content[frame + 5 : frame + 9] = b'\xff\xdc' * 2  # 65,500 x 65,500
    path.write_bytes(content)
    (finding,) = check_dataset(tmp_path, quick=True).errors
    assert 'im 1.jpg' in finding.where[0] and 'exceeds limit' in finding.where[0]


def test_the_cache_is_used_until_the_data_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / 'set'
    voc_lists(root, train=NAMES[:2], val=NAMES[2:])
    first = find_data(root)
    with monkeypatch.context() as patch:
        patch.setattr('ghost_det.data.convert._convert', lambda *_: pytest.fail('converted again'))
        assert find_data(root) == first
    label(root / 'Annotations/im 1.xml', thing('owl', 1, 1, 9, 9))
    second = find_data(root)
    assert second.classes == ('cat', 'dog', 'owl') and not first.val.annotations.exists()
    shutil.copytree(root, tmp_path / 'copy')
    assert find_data(tmp_path / 'copy').val.annotations.parent != second.val.annotations.parent
    assert second.val.annotations.exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'defusedxml.ElementTree', None)
    with pytest.raises(UserError, match=r'pip install "ghost-det\[data\]"'):
        find_data(voc(tmp_path, '.', '.'))


def sized(path: Path, size: tuple[int, int], *things: str) -> None:
    """Write an xml file with a size."""
    text = f'<size><width>{size[0]}</width><height>{size[1]}</height></size>{"".join(things)}'
    path.write_text(f'<annotation>{text}</annotation>')


@pytest.mark.parametrize('orientation', range(5, 9))
def test_boxes_of_the_stored_image_are_turned_with_it(tmp_path: Path, orientation: int) -> None:
    from mmcv import imfrombytes

    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:])
    sized(tmp_path / 'Annotations/im 1.xml', (40, 30), thing('cat', 3, 6, 12, 11))
    stored = Image.new('RGB', (40, 30))
    stored.paste('white', (2, 5, 12, 11))
    tag = Image.Exif()
    tag[0x0112] = orientation
    path = tmp_path / 'JPEGImages/im 1.jpg'
    stored.save(path, exif=tag, quality=95)
    assert any('turned boxes (1): Annotations/im 1.xml' in line for line in find_data(tmp_path).warnings)
    x, y, width, height = read_boxes(tmp_path)['im 1.jpg'][0]
    rows, columns = np.nonzero(imfrombytes(path.read_bytes())[..., 0] > 127)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == (x, y, x + width, y + height)


@pytest.mark.parametrize(
    ('size', 'box', 'orientation', 'right'),
    [
        ((40, 30), (1, 1, 40, 30), 1, True),
        ((0, 0), (1, 1, 40, 30), 1, True),  # unknown
        ((80, 60), (1, 1, 40, 30), 1, False),
        ((30, 40), (1, 1, 30, 40), 1, False),  # turned, but by no tag
        ((30, 40), (1, 1, 30, 40), 6, True),
        ((40, 30), (1, 1, 30, 40), 6, False),  # the size of the stored image, boxes of the turned one
    ],
)
def test_a_size_in_the_xml_that_is_not_the_images_is_an_error(
    tmp_path: Path, size: tuple[int, int], box: tuple[int, ...], orientation: int, right: bool
) -> None:
    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:])
    sized(tmp_path / 'Annotations/im 1.xml', size, thing('cat', *box))
    picture(tmp_path / 'JPEGImages/im 1.jpg', orientation=orientation)
    report = check_dataset(tmp_path, quick=True)
    assert [error.kind for error in report.errors] == ([] if right else ['wrong size'])
    assert not right or read_boxes(tmp_path)['im 1.jpg'] == [[0, 0, *box[2:]]]

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
from ghost_det.data.convert import converted
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError


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
            label = Path(image['file_name']).with_suffix('.txt' if layout == 'yolo' else '.xml')
            (labels / label).write_text(text)
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
            if not boxes:
                continue
            ours, theirs = (np.array([b for _, b in each]) for each in (after[file], boxes))
            # VOC has whole pixels: corners within half of one, and no box of less than one.
            corners = [np.hstack([b[:, :2], b[:, :2] + b[:, 2:]]) for b in (ours, theirs)]
            largest = max(largest, np.abs(corners[0] - corners[1]).max())
            compared += len(boxes)
    print(layout, compared, 'boxes, largest difference of a corner in px:', largest)
    assert compared == 1363
    assert largest <= (0.5 if layout == 'voc' else 1e-2)
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
        ('<annotations/>', 'expected <annotation>, got <annotations>'),
        (f'<annotation>{thing("", 1, 1, 9, 9)}</annotation>', 'Missing name'),
        (f'<annotation>{thing("dog", 1, 1, 9)}</annotation>', 'Missing ymax'),
        (f'<annotation>{thing("dog", 1, 1, float("inf"), 9)}</annotation>', 'xmax is inf'),
        (f'<annotation>{thing("dog", 1, 1, 9, 9).replace("1", "a", 1)}</annotation>', "'a'"),
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
        ('5 0.5 0.5 0.5 0.5\n', 'wrong label file', 'line 1: class 5, but "names" has 1'),
        ('cat 0.5 0.5 0.5 0.5\n', 'wrong label file', "line 1: expected numbers, got 'cat 0.5"),
        ('0 0.5 0.5 0.5 -0.5\n', 'wrong label file', 'line 1: -0.5: expected shares'),
        ('0 0.1 0.1 0.9 0.1 0.9 7\n', 'wrong label file', 'line 1: 7: expected shares'),
        ('0 0.1 0.1 0.9 0.1 0.9 0.8 0.2\n', 'wrong label file', 'line 1: 7 numbers after the class'),
        ('0 0.5 0.5 nan 0.5\n', 'wrong label file', 'labels/train/a.txt of images/train/a.jpg'),
        ('0 0.5 0.5\n', 'wrong label file', 'labels/train/a.txt'),
        ('99999999999999999999 0.5 0.5 0.5 0.5\n', 'wrong label file', 'labels/train/a.txt'),
        ('0 1.5 0.5 0.2 0.2\n', 'wrong label file', 'labels/train/a.txt of images/train/a.jpg: line 1: 1.5'),
        ('', 'no boxes', 'nothing to learn from'),
    ],
)
def test_faults_in_labels_of_yolo(tmp_path: Path, label: str, kind: str, says: str) -> None:
    root = yolo(tmp_path / 'set', 'train: images/train\nval: images/val\nnames: [cat]\n', label)
    report = check_dataset(root)
    (finding,) = (f for f in report.errors if f.kind == kind and f.split == 'train')
    assert says in finding.where[0]


def read_boxes(root: Path, split: str = 'train') -> dict[str, list[list[float]]]:
    """Boxes in px by file name, as a training would get them."""
    data = find_data(root)
    assert data.train is not None
    annotations = data.train.annotations if split == 'train' else data.val.annotations
    return {
        file: [[round(v, 3) for v in box] for _, box in boxes]
        for file, boxes in boxes_of(json.loads(annotations.read_text())).items()
    }


def test_wrong_rows_leave_the_others(tmp_path: Path) -> None:
    rows = '0 0.5 0.5 0.5 0.5 0.93\n\n0 0.5 0.5\n0 0.5 0.5 1 1.004\n3 0.5 0.5 1 1\n'
    root = yolo(tmp_path / 'set', f'{PLACES}names: [cat]\n', rows)
    (finding,) = (f for f in check_dataset(root).errors if f.split == 'train')
    assert finding.count == 2 and [w.split(': ')[1] for w in finding.where] == ['line 3', 'line 5']
    content = json.loads(converted(root)['train'].read_text())
    boxes = [[round(v, 2) for v in box['bbox']] for box in content['annotations']]
    assert boxes == [[7.5, 10, 15, 20], [0, -0.08, 30, 40.16]]  # the first has a confidence


POSES = {
    '[2, 2]': '0 0.4 0.45 0.4 0.6 0.35 0.40 0.45 0.50\n',  # as many numbers as four corners
    '[4, 3]': '0 0.4 0.45 0.4 0.6 0.35 0.40 2 0.45 0.50 2 0 0 0 0.4 0.4 1\n',
    '[1, 3]': '0 0.4 0.45 0.4 0.6 0.35 0.40 2\n',
    '[1, 2]': '0 0.4 0.45 0.4 0.6 0.35 0.40\n',
    '[4, 2]': '0 0.7 0.3 0.06 0.04 0.67 0.28 0.73 0.28 0.73 0.32 0.67 0.32\n',  # a sane polygon as well
}


@pytest.mark.parametrize('shape', POSES)
def test_rows_with_keypoints_are_boxes_or_refused(tmp_path: Path, shape: str) -> None:
    row = POSES[shape]
    x, y, width, height = map(float, row.split()[1:5])
    said = yolo(tmp_path / 'said', f'{PLACES}kpt_shape: {shape}\nnames: [cat]\n', f'{row}0 0.5 0.5 1 1\n')
    expected = [(x - width / 2) * 30, (y - height / 2) * 40, width * 30, height * 40]
    np.testing.assert_allclose(read_boxes(said)['a.jpg'], [expected, [0, 0, 30, 40]], atol=1e-3)
    unsaid = yolo(tmp_path / 'unsaid', f'{PLACES}names: [cat]\n', row)
    for call in (find_data, check_dataset):
        with pytest.raises(UserError) as error:
            call(unsaid)
        assert f'"kpt_shape: {shape}"' in str(error.value) and '\n' not in str(error.value)
    other = yolo(tmp_path / 'other', f'{PLACES}kpt_shape: [9, 3]\nnames: [cat]\n', row)
    with pytest.raises(UserError, match='expected 4, or 31 by kpt_shape'):
        find_data(other)


@pytest.mark.parametrize(
    'row',
    [
        '0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6',  # corners, which would do as a box with two keypoints
        '0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6 0.4 0.4',  # closed
        '0.7 0.5 0.8 0.7 0.6 0.7',
        '0.40 0.30 0.45 0.30 0.45 0.35 0.50 0.35 0.50 0.40 0.45 0.40 0.45 0.45 0.40 0.45 0.40 0.40 0.35 0.40 '
        '0.35 0.35 0.40 0.35',  # a cross, some of whose sides are on one line
    ],
)
def test_polygons_of_one_length_are_polygons(tmp_path: Path, row: str) -> None:
    points = np.array(row.split(), float).reshape(-1, 2) * (30, 40)
    root = yolo(tmp_path / 'set', f'{PLACES}names: [cat]\n', f'0 {row}\n' * 3)
    expected = [*points.min(0), *np.ptp(points, axis=0)]
    np.testing.assert_allclose(read_boxes(root)['a.jpg'], [expected] * 3, atol=1e-3)


def test_polygons_that_cross_themselves_can_be_declared(tmp_path: Path) -> None:
    row = POSES['[2, 2]']
    root = yolo(tmp_path / 'set', f'{PLACES}kpt_shape: [0, 0]\nnames: [cat]\n', row)
    assert read_boxes(root) == {'a.jpg': [[10.5, 16, 3, 8]]}
    (root / 'data.yaml').write_text(f'{PLACES}kpt_shape: 17\nnames: [cat]\n')
    with pytest.raises(UserError, match='kpt_shape: expected two numbers'):
        find_data(root)


@pytest.mark.parametrize('parts', ['largest', 'joined'])
def test_polygons_of_coco_are_polygons(coco_mini: Path, tmp_path: Path, parts: str) -> None:
    folder, before = tmp_path / 'set', {}
    for split in ('train', 'val'):
        source = json.loads((coco_mini / f'annotations/instances_{split}2017.json').read_text())
        ids = {category['id']: n for n, category in enumerate(source['categories'])}
        (folder / split).mkdir(parents=True)
        (folder / split / 'images').symlink_to(coco_mini / f'{split}2017')
        (folder / split / 'labels').mkdir()
        rows: dict[int, list[str]] = {image['id']: [] for image in source['images']}
        sizes = {image['id']: (image['width'], image['height']) for image in source['images']}
        for box in source['annotations']:
            if not isinstance(box['segmentation'], list):
                continue
            image = box['image_id']
            polygon = (
                max(box['segmentation'], key=len) if parts == 'largest' else sum(box['segmentation'], [])
            )
            points = np.array(polygon).reshape(-1, 2)
            values = ' '.join(f'{v:.6f}' for v in (points / sizes[image]).ravel())
            rows[image].append(f'{ids[box["category_id"]]} {values}')
            name = next(i['file_name'] for i in source['images'] if i['id'] == image)
            before.setdefault((split, name), []).append([*points.min(0), *np.ptp(points, axis=0)])
        for image in source['images']:
            text = '\n'.join(rows[image['id']])
            (folder / split / 'labels' / Path(image['file_name']).with_suffix('.txt')).write_text(text)
    names = '\n'.join(f'  {n}: "{category["name"]}"' for n, category in enumerate(source['categories']))
    (folder / 'data.yaml').write_text(f'train: train/images\nval: val/images\nnames:\n{names}\n')
    report = check_dataset(folder, quick=True)
    assert not report.errors and 'label' not in ' '.join(finding.kind for finding in report.findings)
    for split in ('train', 'val'):
        after = read_boxes(folder, split)
        for (place, name), boxes in before.items():
            if place == split:
                np.testing.assert_allclose(after[name], boxes, atol=2e-3)
    assert sum(map(len, before.values())) == 1350


def tree(root: Path, labels: dict[str, str], images: str = '') -> Path:
    """Write labels as they are, and an image of 10 x 10 px for each name."""
    from PIL import Image

    for name, text in labels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in images.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (10, 10)).save(root / name)
    return root


ROW, BOX = '0 0.5 0.5 0.4 0.4\n', [3, 3, 4, 4]


@pytest.mark.parametrize(
    ('train', 'image', 'label'),
    [
        ('train', 'train/images/a.png', 'train/labels/a.txt'),
        ('train', 'train/images/x/images/a.png', 'train/images/x/labels/a.txt'),  # the last one
        ('train', 'train/a.png', 'train/a.txt'),  # in a folder below another "images"
        ('train/images', 'train/images/a.b.png', 'train/labels/a.b.txt'),
    ],
)
def test_labels_are_looked_for_from_the_path_of_each_image(
    tmp_path: Path, train: str, image: str, label: str
) -> None:
    yaml = f'train: {train}\nval: {train}\nnames: [cat]\n'
    root = tree(tmp_path / 'images/set', {'data.yaml': yaml, label: ROW}, image)
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
        # Not in a list, but its image is there: no orphan.
        'lists/labels/train/unlisted.txt': ROW,
    }
    images = 'lists/images/train/a.png lists/images/train/unlisted.png more/images/c.png images/val/b.png'
    root = tree(tmp_path / 'set', labels, images)
    report = check_dataset(root, quick=True)
    (finding,) = (error for error in report.errors if error.kind != 'image in both splits')
    assert (finding.kind, finding.split, finding.count) == ('missing file', 'train', 1)
    assert finding.where == ('lists/images/train/gone.png',)
    assert not [f for f in report.findings if 'label' in f.kind]
    with pytest.raises(UserError, match='missing file'):
        find_data(root)
    (root / 'lists/images/train/gone.png').write_bytes((root / 'lists/images/train/a.png').read_bytes())
    assert read_boxes(root) == {'a.png': [BOX], 'gone.png': [], 'c.png': [BOX]}
    assert read_boxes(root, 'val') == {'b.png': [BOX], 'a.png': [BOX]}


def test_links_in_a_data_set_are_followed(tmp_path: Path) -> None:
    yaml = 'train: train/images\nval: train/images\nnames: [cat]\n'
    labels = {'data.yaml': yaml, 'train/labels/a.txt': ROW, 'more/labels/b.txt': ROW}
    root = tree(tmp_path / 'set', labels, 'train/images/a.png more/images/b.png')
    for kind in ('images', 'labels'):
        (root / f'train/{kind}/part').symlink_to(f'../../more/{kind}')
        (root / f'train/{kind}/loop').symlink_to('..')
    assert read_boxes(root) == {'a.png': [BOX], 'b.png': [BOX]}
    assert find_data(root).warnings == ('image in both splits (2): train/images/a.png and 1 more',)
    (root / 'train/images/lost.png').symlink_to('nowhere.png')
    (finding,) = (f for f in check_dataset(root, quick=True).errors if f.split == 'train')
    assert finding.kind == 'missing file' and finding.where == ('train/images/lost.png',)


APPLE = b'\0\5\x16\7\0\2\0\0Mac OS X        \xb0\xff'


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    root = yolo(tmp_path / 'set', f'{PLACES}names: [cat]\n')
    for name in ('._data.yaml', 'images/train/._a.jpg', 'labels/train/._a.txt', 'images/train/.x/a.jpg'):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(APPLE)
    report = check_dataset(root)
    assert not report.errors and [len(part.table.files) for part in report.parts] == [1, 1]
    content = json.loads(converted(root)['train'].read_text())
    coco = tmp_path / 'coco'
    for split in ('train', 'val'):
        tree(coco, {f'annotations/{split}.json': json.dumps({**content, 'info': {}})})
        (coco / f'annotations/._{split}.json').write_bytes(APPLE)
        shutil.copytree(root / 'images', coco / split / 'images')
    assert find_data(coco).val.annotations.name == 'val.json'


def test_a_stray_yaml_does_not_matter(tmp_path: Path) -> None:
    root = yolo(tmp_path / 'set', f'{PLACES}names: [cat]\n')
    for name, text in (('a.yaml', 'train: [images\n'), ('b.yml', 'names: [x]\ntrain: elsewhere\n')):
        (root / name).write_text(text)
    assert find_data(root).classes == ('cat',)
    (root / 'data.yaml').rename(root / 'set.yaml')
    assert find_data(root).classes == ('cat',)
    (root / 'data.yaml').write_text('train: [images\n')  # the one that is meant
    with pytest.raises(UserError, match=r'data\.yaml: cannot be read'):
        find_data(root)
    (root / 'data.yaml').unlink()
    (root / 'set.yaml').unlink()
    with pytest.raises(UserError, match=r'a\.yaml: cannot be read'):
        find_data(root)
    voc(root)
    assert find_data(root).classes == ('cat', 'dog')


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_byte_order_marks_of_windows(tmp_path: Path, encoding: str) -> None:
    root = yolo(tmp_path / 'set', 'train: train.txt\nval: train.txt\nnames: [größe]\n', '0 0.5 0.5 1 1\r\n')
    (root / 'train.txt').write_text('./images/train/a.jpg\n')
    for path in (root / 'data.yaml', root / 'train.txt', root / 'labels/train/a.txt'):
        path.write_bytes(path.read_text(encoding='utf-8').encode(encoding))
    assert read_boxes(root) == {'a.jpg': [[0, 0, 30, 40]]} and find_data(root).classes == ('größe',)


@pytest.mark.parametrize('form', ['list', 'mapping'])
def test_names_of_classes_stay_as_they_are_written(tmp_path: Path, form: str) -> None:
    names = [
        'yes',
        'no',
        'On',
        '007',
        '12:30',
        '1e3',
        'null',
        '~',
        '2024-01-31',
        '0x1F',
        '1_000',
        '.5',
        'true',
    ]
    text = f'[{", ".join(names)}]'
    if form == 'mapping':
        text = ''.join(f'\n  {n}: {name}' for n, name in enumerate(names))
    rows = ''.join(f'{n} 0.5 0.5 0.5 0.5\n' for n in range(len(names)))
    root = yolo(tmp_path / 'set', f'path: ~\n{PLACES}test: null\nnames: {text}\n', rows)
    assert find_data(root).classes == tuple(names)


def test_files_without_their_partners_are_counted(tmp_path: Path) -> None:
    root = yolo(tmp_path / 'set', f'{PLACES}names: [cat]\n')
    tree(
        root,
        {
            'labels/train/b.txt': f'\n{ROW}',
            'labels/train/only/c.txt': ROW,
            'labels/val/d.txt': '',  # nothing is lost
            'labels/train/classes.txt': 'cat\n',
        },
        'images/train/e.png',
    )
    report = check_dataset(root, quick=True)
    told = {(f.kind, f.split): f for f in report.findings if 'label' in f.kind}
    assert set(told) == {('label file without image', 'train'), ('image without labels', 'train')}
    first, second = told.values()
    assert first.severity == 'warning' and first.where == ('labels/train/b.txt', 'labels/train/only/c.txt')
    assert second.severity == 'warning' and second.where == ('images/train/e.png: no labels/train/e.txt',)
    assert [line for line in find_data(root).warnings if 'label' in line] == [first.line(), second.line()]
    for n in range(9):  # one of eleven is background
        tree(root, {f'labels/train/{n}.txt': ROW}, f'images/train/{n}.png')
    (second,) = (f for f in check_dataset(root, quick=True).findings if f.kind == 'image without labels')
    assert second.severity == 'note' and second.count == 1
    assert not any('image without labels' in line for line in find_data(root).warnings)
    tree(root, {}, 'images/train/b.png')  # which is another result, though no label changed
    assert len(read_boxes(root)['b.png']) == 1


def test_the_yaml_that_is_named_is_used(tmp_path: Path) -> None:
    root = yolo(tmp_path / 'set', f'{PLACES}names: [cat]\n')
    (root / 'other.yaml').write_text(f'{PLACES}names: [dog]\n')
    data = find_data(root / 'other.yaml')
    assert data.classes == ('dog',) and data.val.images == root
    assert find_data(root / 'data.yaml').classes == find_data(root).classes == ('cat',)
    assert not check_dataset(root / 'other.yaml').errors
    (root / 'half.yaml').write_text('train: images/train\nnames: [dog]\n')
    with pytest.raises(UserError, match=r'half\.yaml: found no val'):
        find_data(root / 'half.yaml')
    (root / 'third.yaml').write_text('names: [dog]\n')
    with pytest.raises(UserError, match=r'third\.yaml: expected a YOLO data.yaml'):
        find_data(root / 'third.yaml')


PLACES = 'train: images/train\nval: images/val\n'
LAUGHS = 'a0: &a0 [ha, ha]\n' + ''.join(f'a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 31))


@pytest.mark.parametrize(
    ('yaml', 'says'),
    [
        ('train: images/nowhere\nval: images/val\nnames: [cat]\n', 'no such folder of images'),
        ('train: images/train\nval: images/val\nnames: cat\n', 'expected a list of class names'),
        ('train: [images\n', 'cannot be read'),
        (f'{PLACES}names: {"[" * 5000 + "]" * 5000}\n', 'cannot be read'),
        (f'{PLACES}names: !!python/object/apply:os.abort []\n', 'cannot be read'),
        (f'{PLACES}names: {{100000000000: cat}}\n', 'a mapping of 0, 1, 2 and so on'),
        (f'{PLACES}names: {{-1: cat}}\n', 'a mapping of 0, 1, 2 and so on'),
        (f'{LAUGHS}{PLACES}names: *a30\n', 'expected a list of class names'),
        (f'{LAUGHS}{PLACES}names: {{cat: *a30}}\n', 'expected a list of class names'),
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
        patch.setattr('ghost_det.data.convert._convert', lambda *_: pytest.fail('converted again'))
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


SIZE = '<size><width>{}</width><height>{}</height></size>'


@pytest.mark.parametrize('orientation', range(5, 9))
def test_boxes_of_the_stored_image_are_turned_with_it(tmp_path: Path, orientation: int) -> None:
    from mmcv import imfrombytes
    from PIL import Image

    root = voc(
        tmp_path / 'set', f'<annotation>{SIZE.format(40, 30)}{thing("cat", 3, 6, 12, 11)}</annotation>'
    )
    picture = Image.new('RGB', (40, 30))
    picture.paste('white', (2, 5, 12, 11))
    tag = Image.Exif()
    tag[0x0112] = orientation
    picture.save(root / 'train/b.jpg', exif=tag, quality=95)
    data = find_data(root)
    assert data.train is not None and any('turned boxes (1): train/b.xml' in line for line in data.warnings)
    (x, y, width, height) = read_boxes(root)['b.jpg'][0]
    rows, columns = np.nonzero(imfrombytes((root / 'train/b.jpg').read_bytes())[..., 0] > 127)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == (x, y, x + width, y + height)
    assert {f.kind for f in check_dataset(root).findings} >= {'turned boxes', 'EXIF rotation'}


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
    from PIL import Image

    root = voc(tmp_path / 'set', f'<annotation>{SIZE.format(*size)}{thing("cat", *box)}</annotation>')
    tag = Image.Exif()
    tag[0x0112] = orientation
    Image.open(root / 'train/b.jpg').save(root / 'train/b.jpg', exif=tag)
    report = check_dataset(root, quick=True)
    assert [error.kind for error in report.errors] == ([] if right else ['wrong size'])
    assert not right or read_boxes(root)['b.jpg'] == [[0, 0, *box[2:]]]


@pytest.mark.parametrize('base', ['/content/set-1', 'C:\\me\\set-1'])
def test_paths_of_another_machine_lead_to_the_same_folders_here(tmp_path: Path, base: str) -> None:
    places = ''.join(f'{name}: {base}/images/{name}\n' for name in ('train', 'val'))
    root = yolo(tmp_path / 'set', f'{places}names: [cat]\n')
    assert set(read_boxes(root)) == {*os.listdir(root / 'images/train')}
    (root / 'data.yaml').write_text('train: /other/images\nval: /other/images\nnames: [cat]\n')
    with pytest.raises(UserError, match='no such folder of images'):  # which would be both splits
        find_data(root)

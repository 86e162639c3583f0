"""Annotations in COCO's format: read, corrected in copies, refused; and configs that follow them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mmdet.datasets import CocoDataset, ConcatDataset

from ghost_det import check_dataset
from ghost_det.config.load import load_config
from ghost_det.data import annotations
from ghost_det.data.annotations import survey
from ghost_det.data.dataset import (
    aligned_annotations,
    class_names,
    find_data,
    missing_data,
    use_data,
    used_boxes,
)
from ghost_det.data.layouts import Split
from ghost_det.data.quick_check import quick_check
from ghost_det.data.table import left_out
from ghost_det.errors import UserError
from ghost_det.evaluation.results import read_truth
from tests.conftest import CONFIGS, ROOT

CONFIG = ROOT / 'configs/retinanet_ghostnet_fpn.py'


def coco(names: list[str], used: list[int] | None = None, first: int = 1) -> dict[str, Any]:
    """A COCO dictionary of an 8 x 8 image with one box of each used category."""
    box = {'image_id': 0, 'bbox': [1, 1, 4, 4], 'area': 16, 'iscrowd': 0}
    return {
        'images': [{'id': 0, 'file_name': '0.jpg', 'width': 8, 'height': 8}],
        'categories': [{'id': 10 * i, 'name': name} for i, name in enumerate(names)],
        'annotations': [
            {**box, 'id': n, 'category_id': 10 * i}
            for n, i in enumerate(range(len(names)) if used is None else used, first)
        ],
    }


def write(path: Path, content: dict[str, Any], images: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for image in content['images']:
        file = (images or path.parent) / image['file_name']
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return path


def write_both(root: Path, content: dict[str, Any]) -> Path:
    for split in ('train', 'valid'):
        path = write(root / split / '_annotations.coco.json', content)
    return path


@pytest.mark.parametrize(
    ('train', 'train_images', 'val', 'val_images'),
    [
        (
            'annotations/instances_train2017.json',
            'train2017',
            'annotations/instances_val2017.json',
            'val2017',
        ),
        ('annotations/instances_train.json', 'images/train', 'annotations/instances_val.json', 'images/val'),
        ('train/_annotations.coco.json', 'train', 'valid/_annotations.coco.json', 'valid'),
        ('train/_annotations.coco.json', 'train', 'test/_annotations.coco.json', 'test'),
        ('train.json', 'images', 'val.json', 'images'),
        ('Annotations/my_train.json', 'Images/train', 'Annotations/my_val.json', 'Images/val'),
        ('annotations/my_train.json', '.', 'annotations/my_val.json', '.'),
    ],
)
def test_layouts_are_found(tmp_path: Path, train: str, train_images: str, val: str, val_images: str) -> None:
    write(tmp_path / train, coco(['cat', 'dog']), tmp_path / train_images)
    write(tmp_path / val, coco(['cat', 'dog']), tmp_path / val_images)
    data = find_data(tmp_path)
    assert data.train is not None
    assert (data.train.annotations, data.val.annotations) == (tmp_path / train, tmp_path / val)
    assert data.train.images.samefile(tmp_path / train_images)
    assert data.val.images.samefile(tmp_path / val_images)
    assert data.classes == ('cat', 'dog')


def test_valid_wins_over_test_and_parts_can_be_named(tmp_path: Path) -> None:
    for split in ('train', 'valid', 'test'):
        write(tmp_path / split / '_annotations.coco.json', coco(['cat']))
    assert find_data(tmp_path).val.images.name == 'valid'
    other = tmp_path / 'test/_annotations.coco.json'
    assert find_data(tmp_path, val_ann=other).val.annotations == other
    outright = find_data(None, other, other.parent, other, other.parent)
    assert outright.train == outright.val


def test_the_real_slice_of_coco(coco_mini: Path) -> None:
    data = find_data(coco_mini)
    assert len(data.classes) == 80 and data.classes[:2] == ('person', 'bicycle')


@pytest.mark.parametrize('order', [1, -1])
def test_an_empty_category_with_the_name_of_another_is_no_class(tmp_path: Path, order: int) -> None:
    content = coco(['person', 'person', 'dog'], used=[1, 2])
    content['categories'][1]['supercategory'] = content['categories'][2]['supercategory'] = 'person'
    content['categories'] = content['categories'][::order]
    path = write_both(tmp_path, content)
    data = find_data(tmp_path)
    assert data.classes == ('person', 'dog')[::order]
    assert any('empty duplicate category (1)' in warning for warning in data.warnings)
    copy = aligned_annotations(path, data.classes, tmp_path / 'aligned')
    kept = json.loads(copy.read_text())['categories']
    assert [(each['id'], each['name']) for each in kept] == [(10, 'person'), (20, 'dog')][::order]
    assert [category['id'] for category in read_truth(path)['categories']] == [10, 20][::order]
    assert not check_dataset(tmp_path, quick=True).errors
    with pytest.raises(UserError, match='empty duplicate category'):  # as no copy is made of it
        quick_check([('train', Split(path, path.parent))])


def test_a_group_is_a_class_only_with_boxes(tmp_path: Path) -> None:
    content = coco(['pieces', 'bishop', 'king'], used=[1])
    for category in content['categories']:
        category['supercategory'] = 'none' if category['name'] == 'pieces' else 'pieces'
    path = write_both(tmp_path, content)
    assert class_names(path) == ('bishop', 'king')
    assert check_dataset(tmp_path, quick=True).to_dict()['splits']['train']['categories'] == 2
    content['annotations'][0]['category_id'] = 0
    assert class_names(write(path, content)) == ('pieces', 'bishop', 'king')
    for category in content['categories']:
        category['supercategory'] = category['name']  # its own group
    content['annotations'][0]['category_id'] = 10
    assert class_names(write(path, content)) == ('pieces', 'bishop', 'king')


@pytest.mark.parametrize(
    ('field', 'value', 'right'),
    [
        *(('area', value, 16) for value in (0, -1, float('nan'), float('inf'), 'much', True, None, 2**60)),
        *(('area', value, 9) for value in (9, '9')),
        *(('iscrowd', value, 0) for value in (False, 0.0, '0', 'false', None)),
        *(('iscrowd', value, 1) for value in (True, 1.0, '1', ' True')),
        *(('ignore', value, 1) for value in (True, 1.0, '1')),
        *(('ignore', value, 0) for value in (False, '0', None)),
    ],
)
def test_values_are_corrected_in_a_copy(tmp_path: Path, field: str, value: Any, right: int) -> None:
    content = coco(['cat', 'dog'])
    content['annotations'][0][field] = value
    path = write(tmp_path / 'a.json', content)
    copy = aligned_annotations(path, ('cat', 'dog'), tmp_path / 'aligned')
    found = json.loads(copy.read_text())['annotations'][0][field]
    assert found == right and type(found) in (int, float)
    dataset = built(copy, filter_cfg=None)
    used = [instance for instance in dataset.get_data_info(0)['instances'] if not instance['ignore_flag']]
    assert len(used) == 2 - (field != 'area' and right)


@pytest.mark.parametrize('field', ['iscrowd', 'ignore'])
@pytest.mark.parametrize('value', ['yes', '', 2, 0.5, [0], {}])
def test_flags_without_a_certain_meaning_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    content = coco(['cat', 'dog'])
    content['annotations'][1][field] = value
    with pytest.raises(UserError, match=rf'annotations\[1\] has {field} .*; expected 0 or 1'):
        class_names(write(tmp_path / 'a.json', content))


def built(path: Path, kind: type[Any] = CocoDataset, **settings: Any) -> Any:
    common = dict(data_prefix=dict(img=''), metainfo=dict(classes=('cat', 'dog')), pipeline=[])
    filters = dict(filter_empty_gt=True, min_size=32)
    return kind(ann_file=str(path), **{'filter_cfg': filters, **common, **settings})


def odd_boxes(path: Path, seed: int) -> Path:
    """Write boxes at and over every limit that mmdet has."""
    rng = random.Random(seed)
    sides = (0, 0.5, 0.99, 1, 5, 40)
    content = {
        'images': [
            {'id': n, 'file_name': f'{n}.jpg', 'width': rng.choice((31, 32, 60)), 'height': 40}
            for n in range(9)
        ],
        'categories': [{'id': n, 'name': name} for n, name in enumerate(('cat', 'cow', 'dog'), start=1)],
        'annotations': [
            {
                'id': n,
                'image_id': rng.randrange(9),
                'category_id': rng.choice((1, 1, 2, 3)),
                'bbox': [rng.choice((-40, -1, 0, 31, 60, 70)), rng.choice((-40, 0, 5.5, 39, 40))]
                + [rng.choice(sides), rng.choice(sides)],
                'area': rng.choice((-1, 0, 7, 7.5, 100)),
                'iscrowd': rng.choice((0, 0, 1, True)),
                **rng.choice(({}, {}, {'ignore': 0}, {'ignore': 1})),
            }
            for n in range(1, 400)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


@dataclass
class Loader:
    dataset: Any


def test_what_mmdet_leaves_out_is_counted_to_the_box(tmp_path: Path) -> None:
    seen = set()
    for seed in range(8):
        path = odd_boxes(tmp_path / f'{seed}.json', seed)
        dataset = built(path)
        entries = [dataset.get_data_info(n)['instances'] for n in range(len(dataset))]
        used = sum(not instance['ignore_flag'] for instances in entries for instance in instances)
        left = left_out(survey(path).table, ('cat', 'dog'), 32)
        assert used and used + sum(left.values()) == 399
        seen |= {reason.split()[-1] for reason in left}
        ((line, is_warning),) = used_boxes(Loader(dataset))
        assert line.startswith(f'train ({seed}.json): {used} of 399 boxes in {len(dataset)} of 9 images')
        assert not is_warning
    assert seen == {'ignore', 'px', 'image', 'below', 'classes', 'crowd'}


class Picky(CocoDataset):
    """It leaves out what no rule says."""

    def filter_data(self) -> list[Any]:
        return super().filter_data()[1:]


def test_an_unexplained_difference_is_a_warning_and_no_box_an_error(tmp_path: Path) -> None:
    path = odd_boxes(tmp_path / 'a.json', 0)
    wrapped = Loader(Loader(ConcatDataset([built(path), built(path, Picky)])))
    (_, first), (picky, second) = used_boxes(wrapped)
    assert (first, second) == (False, True) and 'for other reasons' in picky
    assert list(used_boxes(Loader([1, 2]))) == []
    content = json.loads(path.read_text())
    for box in content['annotations']:
        box['area'] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='0 of 399 boxes .*area of 0 or below.*nothing to learn'):
        list(used_boxes(Loader(built(path))))


def test_labels_follow_the_training_order_in_a_copy_of_val(tmp_path: Path) -> None:
    content = coco(['dog', 'extra', 'cat'], used=[0, 2])
    del content['annotations'][0]['area']
    path = write(tmp_path / 'val.json', content)
    before = path.read_bytes()
    copy = aligned_annotations(path, ('cat', 'bird', 'dog'), tmp_path / 'aligned')
    assert copy != path and path.read_bytes() == before
    dataset = built(copy, metainfo=dict(classes=('cat', 'bird', 'dog')), test_mode=True)
    assert [instance['bbox_label'] for instance in dataset.get_data_info(0)['instances']] == [2, 0]


@pytest.mark.parametrize('change', ['none', 'id 0', 'same ids', 'ids as texts', 'byte order mark'])
def test_a_file_in_order_is_used_as_it_is(tmp_path: Path, change: str) -> None:
    content = coco(['cat', 'dog'], first=0 if change == 'id 0' else 1)
    for box in content['annotations']:
        box['id'] = {'same ids': 7, 'ids as texts': str(box['id'])}.get(change, box['id'])
    path = write(tmp_path / 'val.json', content)
    if change == 'byte order mark':
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    copy = aligned_annotations(path, ('cat', 'dog'), tmp_path / 'aligned')
    assert (copy == path) == (change == 'none') == (not (tmp_path / 'aligned').exists())
    assert [box['id'] for box in json.loads(copy.read_text())['annotations']] == [1, 2]


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    # what becomes of a sound file's content, and a piece of the message
    'json': (lambda content: b'{\n"images": [\n,]}', 'in line 3'),
    'binary': (lambda content: b'\x80\x02\xff\xd8', 'not json in UTF-8'),
    'no images': (lambda content: content.pop('images') and content, 'no list .images.'),
    'list': (lambda content: [1], 'no list .images.'),
    'empty': (lambda content: {**content, 'images': []}, 'empty: 0 images'),
    'boxless': (lambda content: {**content, 'annotations': []}, 'no boxes'),
    'twice': (
        lambda content: {**content, 'categories': [{'id': id, 'name': 'cat'} for id in (0, 10)]},
        'two categories have the name .cat.',
    ),
}


@pytest.mark.parametrize('key', BAD)
def test_bad_annotations_are_named_with_their_fault(tmp_path: Path, key: str) -> None:
    change, message = BAD[key]
    path = write(tmp_path / 'train/_annotations.coco.json', coco(['cat', 'dog']))
    content = change(coco(['cat', 'dog']))
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=message) as error:
        find_data(tmp_path, val_ann=path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ('where', 'field', 'value'),
    [
        *(('annotations', 'bbox', value) for value in ([1, 1, 4], [1, 1, float('nan'), 4], [1, 1, -4, 4])),
        *(('annotations', 'bbox', value) for value in (['1', 1, 4, 4], None)),
        *(('annotations', 'category_id', value) for value in (999, '0')),
        *(('annotations', 'image_id', value) for value in (999, [])),
        *(('images', 'width', value) for value in (0, '8')),
        *(('images', 'file_name', value) for value in (3, 'a\0b')),
        ('categories', 'name', ['cat']),
        ('categories', 'id', 10),
    ],
)
def test_broken_entries_are_named(tmp_path: Path, where: str, field: str, value: Any) -> None:
    content = coco(['cat', 'dog'])
    content[where][0][field] = value
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=field) as error:
        class_names(path)
    assert str(path) in str(error.value) and where in str(error.value)


def test_val_boxes_of_an_unknown_class_are_refused(tmp_path: Path) -> None:
    write(tmp_path / 'train/_annotations.coco.json', coco(['cat']))
    write(tmp_path / 'valid/_annotations.coco.json', coco(['cat', 'dgo']))
    with pytest.raises(UserError, match="boxes of the class 'dgo'"):
        find_data(tmp_path)


@pytest.mark.parametrize('config', CONFIGS, ids=lambda p: p.stem)
def test_every_config_follows_the_data(config: Path, sample: Path, tmp_path: Path) -> None:
    cfg = load_config(config)
    data = find_data(sample)
    assert missing_data(cfg, ('train', 'val'))[0].name == 'instances_train2017.json'
    use_data(cfg, data, tmp_path)
    assert missing_data(cfg, ('train', 'val', 'test')) == []
    counts = [n for key, head in cfg.model.items() if key.endswith('head') for n in numbers_of_classes(head)]
    assert counts and set(counts) == {len(data.classes)}
    for name in ('val', 'test'):
        assert cfg[f'{name}_evaluator'].ann_file == str(data.val.annotations)
        assert cfg[f'{name}_dataloader'].dataset.metainfo['classes'] == data.classes


def numbers_of_classes(part: Any) -> list[int]:
    if isinstance(part, dict):
        own = [part['num_classes']] if 'num_classes' in part else []
        return own + [n for value in part.values() for n in numbers_of_classes(value)]
    return []


def test_wrapped_and_concatenated_datasets_are_followed(sample: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIG)
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner, inner])
    )
    use_data(cfg, find_data(sample), tmp_path)
    assert cfg.train_dataloader.dataset.times == 2
    (only,) = cfg.train_dataloader.dataset.dataset.datasets
    assert only.ann_file.startswith(str(sample))
    only.data_root = 's3://bucket/coco/'
    assert missing_data(cfg, ('train',)) == []  # remote data is not looked for


def test_more_classes_than_coco_get_colours(tmp_path: Path) -> None:
    write_both(tmp_path, coco([f'class {i}' for i in range(90)]))
    cfg = load_config(CONFIG)
    use_data(cfg, find_data(tmp_path), tmp_path)
    assert len(cfg.val_dataloader.dataset.metainfo.palette) == 90


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = write(tmp_path / 'train.json', coco(['a', 'b']))
    val = write(tmp_path / 'val.json', coco(['a', 'b']))
    read: list[str] = []
    load = annotations.load
    monkeypatch.setattr(annotations, 'load', lambda path: read.append(path.name) or load(path))
    for name in (train, val):
        aligned_annotations(name, find_data(tmp_path).classes, tmp_path / 'copies')
    assert sorted(read) == ['train.json', 'val.json']
    write(val, coco(['a', 'b', 'c']))
    with pytest.raises(UserError, match="the class 'c'"):
        find_data(tmp_path)


@pytest.mark.parametrize('field', ['file_name', 'name'])
def test_names_in_another_form_are_corrected_in_a_copy(tmp_path: Path, field: str) -> None:
    content = coco(['7', 'dog'])
    content['images'][0]['file_name'] = 'a/0.jpg'
    path = write(tmp_path / 'annotations/instances_val.json', content, tmp_path / 'val')
    key, value = ('categories', 7) if field == 'name' else ('images', 'a\\0.jpg')
    content[key][0][field] = value
    path.write_text(json.dumps(content))
    data = find_data(tmp_path, classes=('7', 'dog'))
    assert any(f'name in another form (1): {key}[0]' in line for line in data.warnings)
    copy = aligned_annotations(path, data.classes, tmp_path / 'aligned')
    read = json.loads(copy.read_text())
    assert copy != path and read['images'][0]['file_name'] == 'a/0.jpg'
    assert [category['name'] for category in read['categories']] == ['7', 'dog']
    with pytest.raises(UserError, match='name in another form'):  # as no copy is made of it
        quick_check([('val', Split(path, tmp_path / 'val'))])


def test_backslashes_that_files_have_are_kept(tmp_path: Path) -> None:
    content = coco(['dog'])
    content['images'][0]['file_name'] = 'a\\0.jpg'
    path = write(tmp_path / 'annotations/instances_val.json', content, tmp_path / 'val')
    data = find_data(tmp_path, classes=('dog',))
    assert data.warnings == () and survey(path).table.files == ['a\\0.jpg']

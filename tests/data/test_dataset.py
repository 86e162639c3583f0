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


def coco(names: list[str], used: list[int] | None = None, images: int = 1, first: int = 1) -> dict[str, Any]:
    """A COCO dictionary of 8x8 images, one box of each used category on the first."""
    return {
        'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': 8, 'height': 8} for i in range(images)],
        'categories': [{'id': 10 * i, 'name': name} for i, name in enumerate(names)],
        'annotations': [
            {
                'id': n + first,
                'image_id': 0,
                'category_id': 10 * i,
                'bbox': [1, 1, 4, 4],
                'area': 16,
                'iscrowd': 0,
            }
            for n, i in enumerate(range(len(names)) if used is None else used)
        ],
    }


def write(path: Path, content: dict[str, Any], images: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    folder = images or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    for image in content['images']:
        (folder / image['file_name']).touch()
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
    for split in ('train', 'valid'):
        path = write(tmp_path / split / '_annotations.coco.json', content)
    data = find_data(tmp_path)
    assert data.classes == ('person', 'dog')[::order]
    assert any('empty duplicate category (1)' in warning for warning in data.warnings)
    copy = aligned_annotations(path, data.classes, tmp_path / 'aligned')
    kept = json.loads(copy.read_text())['categories']
    assert [(each['id'], each['name']) for each in kept] == [(10, 'person'), (20, 'dog')][::order]
    assert [category['id'] for category in read_truth(path)['categories']] == [10, 20][::order]
    report = check_dataset(tmp_path, quick=True)
    assert f'{len(data.classes)} classes' in str(report) and not report.errors
    assert not any(finding.kind == 'num_classes' for finding in report.findings)  # which --data sets
    with pytest.raises(UserError, match='empty duplicate category'):  # as no copy is made of it
        quick_check([('train', Split(path, path.parent))])


def test_the_check_counts_classes_as_the_training_does(tmp_path: Path) -> None:
    content = coco(['pieces', 'bishop', 'king'], used=[1])
    for category in content['categories']:
        category['supercategory'] = 'none' if category['name'] == 'pieces' else 'pieces'
    for split in ('train', 'valid'):
        path = write(tmp_path / split / '_annotations.coco.json', content)
    assert class_names(path) == ('bishop', 'king')  # the group has no boxes
    report = check_dataset(tmp_path, quick=True)
    assert '2 classes' in str(report)
    assert report.to_dict()['splits']['train']['categories'] == 2
    assert not any(finding.kind == 'classes differ' for finding in report.findings)
    content['annotations'][0]['category_id'] = 0  # the group itself, in train alone
    path = write(tmp_path / 'train/_annotations.coco.json', content)
    report = check_dataset(tmp_path, quick=True)
    assert class_names(path) == ('pieces', 'bishop', 'king') and '3 classes' in str(report)
    assert not any(finding.kind == 'classes differ' for finding in report.findings)


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
def test_values_are_put_right_in_a_copy(tmp_path: Path, field: str, value: Any, right: int) -> None:
    content = coco(['cat', 'dog'])
    content['annotations'][0][field] = value
    path = write(tmp_path / 'a.json', content)
    copy = aligned_annotations(path, ('cat', 'dog'), tmp_path / 'aligned')
    found = json.loads(copy.read_text())['annotations'][0][field]
    assert found == right and type(found) in (int, float)
    (dataset,) = built(dict(ann_file=str(copy), filter_cfg=None))
    used = [instance for instance in dataset.get_data_info(0)['instances'] if not instance['ignore_flag']]
    assert len(used) == 2 - (field != 'area' and right)


@pytest.mark.parametrize('field', ['iscrowd', 'ignore'])
@pytest.mark.parametrize('value', ['yes', '', 2, -1, 0.5, [0], {}])
def test_flags_of_no_certain_meaning_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    content = coco(['cat', 'dog'])
    content['annotations'][1][field] = value
    path = write(tmp_path / 'a.json', content)
    with pytest.raises(UserError, match=rf'annotations\[1\] has {field} .*; expected 0 or 1'):
        class_names(path)


def built(*parts: dict[str, Any], kind: Any = CocoDataset) -> list[Any]:
    settings = dict(data_prefix=dict(img=''), metainfo=dict(classes=('cat', 'dog')), pipeline=[])
    filters = dict(filter_empty_gt=True, min_size=32)
    return [kind(**{'filter_cfg': filters, **settings, **part}) for part in parts]


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


def test_what_mmdet_leaves_out_is_counted_to_the_box(tmp_path: Path) -> None:
    seen = set()
    for seed in range(8):
        path = odd_boxes(tmp_path / f'{seed}.json', seed)
        (dataset,) = built(dict(ann_file=str(path)))
        entries = [dataset.get_data_info(n)['instances'] for n in range(len(dataset))]
        used = sum(not instance['ignore_flag'] for instances in entries for instance in instances)
        left = left_out(survey(path).table, ('cat', 'dog'), 32)
        assert used and used + sum(left.values()) == 399
        seen |= {reason.split()[-1] for reason in left}
        ((line, is_warning),) = used_boxes(Loader(dataset))
        images = f'in {len(dataset)} of 9 images'
        assert line.startswith(f'train ({seed}.json): {used} of 399 boxes {images} are used; left out: ')
        assert not is_warning
    assert seen == {'ignore', 'px', 'image', 'below', 'classes', 'crowd'}


@dataclass
class Loader:
    dataset: Any


class Picky(CocoDataset):
    """It leaves out what no rule says."""

    def filter_data(self) -> list[Any]:
        return super().filter_data()[1:]


def test_an_unexplained_difference_is_a_warning_and_no_box_an_error(tmp_path: Path) -> None:
    path = odd_boxes(tmp_path / 'a.json', 0)
    parts = built(dict(ann_file=str(path)), dict(ann_file=str(path), indices=3))
    parts += built(dict(ann_file=str(path)), kind=Picky)
    wrapped = Loader(Loader(ConcatDataset(parts)))
    (_, first), (subset, second), (picky, third) = used_boxes(wrapped)
    assert (first, second, third) == (False, False, True)
    assert 'in 3 of 9 images' in subset and 'not among its indices' in subset
    assert 'for a reason unknown to ghost_det' in picky
    assert list(used_boxes(Loader([1, 2]))) == []
    content = json.loads(path.read_text())
    for box in content['annotations']:
        box['area'] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match='train .a.json.: 0 of 399 boxes .*area of 0 or below.*nothing to learn'
    ):
        list(used_boxes(Loader(*built(dict(ann_file=str(path))))))


def test_labels_follow_the_training_order_in_a_copy_of_val(tmp_path: Path) -> None:
    content = coco(['dog', 'extra', 'cat'], used=[0, 2])
    del content['annotations'][0]['area']
    path = write(tmp_path / 'val.json', content)
    before = path.read_bytes()
    copy = aligned_annotations(path, ('cat', 'bird', 'dog'), tmp_path / 'aligned')
    assert copy != path and path.read_bytes() == before
    dataset = CocoDataset(
        ann_file=str(copy),
        data_prefix=dict(img=str(tmp_path)),
        metainfo=dict(classes=('cat', 'bird', 'dog')),
        pipeline=[],
        test_mode=True,
    )
    labels = [instance['bbox_label'] for instance in dataset.get_data_info(0)['instances']]
    assert sorted(labels) == [0, 2]
    assert labels[0] == 2  # the first box is the dog's


def test_a_file_that_is_in_order_is_used_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / 'val.json', coco(['cat', 'dog']))
    assert aligned_annotations(path, ('cat', 'dog'), tmp_path / 'aligned') == path
    assert not (tmp_path / 'aligned').exists()


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    # what becomes of a sound file's content, and a piece of the message
    'json': (lambda content: b'{\n"images": [\n,]}', 'in line 3'),
    'binary': (lambda content: b'\x80\x02\xff\xd8', 'not json in UTF-8'),
    'no images': (lambda content: content.pop('images') and content, 'no list .images.'),
    'list': (lambda content: [1], 'no list .images.'),
    'field': (
        lambda content: content['annotations'][1].pop('bbox') and content,
        r'annotations\[1\] has no .bbox.',
    ),
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


def test_annotations_without_their_images_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / 'train/_annotations.coco.json', coco(['cat']), tmp_path / 'elsewhere/of/it')
    (tmp_path / 'elsewhere/of/it/0.jpg').unlink()
    with pytest.raises(UserError, match='1 of its first 1 images are not in') as error:
        find_data(tmp_path, val_ann=path)
    assert str(path) in str(error.value)


def test_missing_folders_and_splits_say_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='expected a folder'):
        find_data(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='--val-ann is missing'):
        find_data(None, train_ann=write(tmp_path / 'x.json', coco(['cat'])))
    write(tmp_path / 'train/_annotations.coco.json', coco(['cat']))
    with pytest.raises(
        UserError, match='(?s)found no val annotations among its json files .*Roboflow'
    ) as error:
        find_data(tmp_path)
    assert 'train/_annotations.coco.json' in str(error.value)
    with pytest.raises(UserError, match='no such annotation file'):
        find_data(tmp_path, val_ann=tmp_path / 'none.json')


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
    heads = [v for k, v in cfg.model.items() if k.endswith('head')]
    counts = [n for head in heads for n in numbers_of_classes(head)]
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
    cfg = load_config(ROOT / 'configs/retinanet_ghostnet_fpn.py')
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner, inner])
    )
    use_data(cfg, find_data(sample), tmp_path)
    assert cfg.train_dataloader.dataset.times == 2
    (only,) = cfg.train_dataloader.dataset.dataset.datasets
    assert only.ann_file.startswith(str(sample))


def test_more_classes_than_coco_get_colours(tmp_path: Path) -> None:
    names = [f'class {i}' for i in range(90)]
    for split in ('train', 'valid'):
        write(tmp_path / split / '_annotations.coco.json', coco(names))
    cfg = load_config(ROOT / 'configs/retinanet_ghostnet_fpn.py')
    use_data(cfg, find_data(tmp_path), tmp_path)
    assert len(cfg.val_dataloader.dataset.metainfo.palette) == 90


def test_remote_data_is_not_looked_for(sample: Path) -> None:
    cfg = load_config(ROOT / 'configs/retinanet_ghostnet_fpn.py')
    cfg.train_dataloader.dataset.data_root = 's3://bucket/coco/'
    assert missing_data(cfg, ('train',)) == []


def test_box_ids_that_cocos_matcher_mistakes_for_no_match_are_renumbered(tmp_path: Path) -> None:
    content = coco(['cat', 'dog'], first=0)
    path = write(tmp_path / 'val.json', content)
    copy = aligned_annotations(path, ('cat', 'dog'), tmp_path / 'aligned')
    assert [box['id'] for box in json.loads(copy.read_text())['annotations']] == [1, 2]


def test_a_class_may_be_its_own_group(tmp_path: Path) -> None:
    content = coco(['person', 'dog'], used=[1])
    for category in content['categories']:
        category['supercategory'] = category['name']
    assert class_names(write(tmp_path / 'a.json', content)) == ('person', 'dog')


@pytest.mark.parametrize(
    ('where', 'field', 'value'),
    [
        ('annotations', 'bbox', [1, 1, 4]),
        ('annotations', 'bbox', [1, 1, float('nan'), 4]),
        ('annotations', 'bbox', [1, 1, -4, 4]),
        ('annotations', 'bbox', ['1', 1, 4, 4]),
        ('annotations', 'bbox', None),
        ('annotations', 'category_id', 999),
        ('annotations', 'category_id', '0'),
        ('annotations', 'image_id', 999),
        ('annotations', 'image_id', []),
        ('images', 'width', 0),
        ('images', 'width', '8'),
        ('images', 'file_name', 3),
        ('images', 'file_name', 'a\0b'),
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


def test_a_byte_order_mark_is_taken_off(tmp_path: Path) -> None:
    content = coco(['cat'])
    content['annotations'][0]['id'] = 1
    path = write(tmp_path / 'a.json', content)
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    copy = aligned_annotations(path, ('cat',), tmp_path / 'aligned')
    assert copy != path and json.loads(copy.read_text())['categories'][0]['name'] == 'cat'


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = write(tmp_path / 'train.json', coco(['a', 'b']))
    val = write(tmp_path / 'val.json', coco(['a', 'b']))
    read: list[str] = []
    whole = annotations.load
    monkeypatch.setattr(annotations, 'load', lambda path: read.append(path.name) or whole(path))
    for name in (train, val):
        aligned_annotations(name, find_data(tmp_path).classes, tmp_path / 'copies')
    assert sorted(read) == ['train.json', 'val.json']
    write(val, coco(['a', 'b', 'c']))
    with pytest.raises(UserError, match="the class 'c'"):
        find_data(tmp_path)


@pytest.mark.parametrize('what', ['file_name', 'name'])
def test_names_in_another_form_are_corrected_in_a_copy(tmp_path: Path, what: str) -> None:
    content = coco(['7', 'dog'])
    for image in content['images']:
        image['file_name'] = f'a/{image["file_name"]}'
    (tmp_path / 'val/a').mkdir(parents=True)
    path = write(tmp_path / 'annotations/instances_val.json', content, tmp_path / 'val')
    names = [image['file_name'] for image in content['images']]
    if what == 'name':
        content['categories'][0]['name'] = 7
    else:
        content['images'][0]['file_name'] = names[0].replace('/', '\\')
    path.write_text(json.dumps(content))
    data = find_data(tmp_path, classes=('7', 'dog'))
    assert any(f'name in another form (1): {"images" if what == "file_name" else "categories"}[0]' in line
               for line in data.warnings)  # fmt: skip
    copy = aligned_annotations(path, data.classes, tmp_path / 'aligned')
    read = json.loads(copy.read_text())
    assert copy != path and [image['file_name'] for image in read['images']] == names
    assert [category['name'] for category in read['categories']] == ['7', 'dog']
    with pytest.raises(UserError, match='name in another form'):  # as no copy is made of it
        quick_check([('val', Split(path, tmp_path / 'val'))])


def test_backslashes_that_files_have_are_kept(tmp_path: Path) -> None:
    content = coco(['dog'])
    content['images'][0]['file_name'] = 'a\\0.jpg'
    path = write(tmp_path / 'annotations/instances_val.json', content, tmp_path / 'val')
    assert (tmp_path / 'val/a\\0.jpg').is_file()
    data = find_data(tmp_path, classes=('dog',))
    assert data.warnings == () and survey(path).table.files == ['a\\0.jpg']

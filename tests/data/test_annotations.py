"""Annotations in COCO's format: read once, corrected in copies, or refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from ghost_det.data import annotations
from ghost_det.data.annotations import load, read_annotations, survey
from ghost_det.data.dataset import aligned_annotations, class_names, find_data
from ghost_det.data.layouts import Split
from ghost_det.data.quick_check import quick_check
from ghost_det.errors import UserError
from ghost_det.evaluation.results import read_truth

from .makers import built, content, write, write_both

MISSING, IMPOSSIBLE, TEXT = CORRECTED = ('no area or iscrowd', 'impossible area', 'number as text')


@pytest.mark.parametrize(
    ('field', 'kind', 'values', 'right'),
    [
        ('area', IMPOSSIBLE, [0, -1, float('nan'), float('inf'), 'x', True, 2**60], 16),
        ('area', MISSING, [None], 16),
        ('area', TEXT, ['9'], 9),
        ('area', None, [9], 9),
        ('iscrowd', None, [False, 0.0], 0),
        ('iscrowd', None, [True, 1.0], 1),
        ('iscrowd', TEXT, ['0', 'false'], 0),
        ('iscrowd', TEXT, ['1', ' True'], 1),
        ('iscrowd', MISSING, [None], 0),
        ('ignore', None, [False, None], 0),
        ('ignore', TEXT, ['0'], 0),
        ('ignore', None, [True], 1),
        ('ignore', TEXT, ['1'], 1),
    ],
)
def test_values_are_corrected_in_a_copy(
    tmp_path: Path, field: str, kind: str | None, values: list[Any], right: int
) -> None:
    for number, value in enumerate(values):
        given = content(['cat', 'dog'])
        given['annotations'][0][field] = value
        path = write(tmp_path / f'{number}.json', given)
        kinds = [each.kind for each in survey(path).findings if each.kind in CORRECTED]
        assert kinds == ([kind] if kind else []), value
        copy = aligned_annotations(path, ('cat', 'dog'), tmp_path / 'aligned')
        found = json.loads(copy.read_text())['annotations'][0][field]
        assert found == right and type(found) in (int, float) and (copy == path) == (value == 9)
        instances = built(copy, filter_cfg=None).get_data_info(0)['instances']
        assert sum(not instance['ignore_flag'] for instance in instances) == 2 - (field != 'area' and right)


def test_ids_that_are_names_get_free_numbers(tmp_path: Path) -> None:
    given = content(['cat', 'dog', 'cow'])
    for entry, name in ((given['categories'][0], 'id'), (given['annotations'][0], 'category_id')):
        entry[name] = 'feline'
    given['categories'][1]['id'] = given['annotations'][1]['category_id'] = '10'
    table, findings = survey(write(tmp_path / 'a.json', given))
    assert [category['id'] for category in table.categories] == [21, 10, 20]
    assert table.category.tolist() == [0, 1, 2]
    assert [(finding.kind, finding.count) for finding in findings] == [('id as text', 4)]


def test_files_that_are_not_annotations_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / 'train/_annotations.coco.json', content(['cat', 'dog']))
    for bad, message in (
        ({'annotations': [], 'categories': []}, 'no list .images.'),
        ([1], 'list .images.'),
        (content(['cat', 'cat']), 'duplicate category name .*cat'),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=f'{path}: .*{message}'):
            find_data(tmp_path, val_ann=path)


@pytest.mark.parametrize(
    ('where', 'field', 'values'),
    [
        ('annotations', 'bbox', ([1, 1, 4], [1, 1, float('nan'), 4], [1, 1, -4, 4], ['1', 1, 4, 4], None)),
        ('annotations', 'category_id', (999, '0')),
        ('annotations', 'image_id', (999, [])),
        ('annotations', 'iscrowd', ('yes', '', 2, 0.5, [0], {})),
        ('annotations', 'ignore', ('yes',)),
        ('images', 'width', (-8, '8')),
        ('images', 'file_name', ('a\0b',)),
        ('categories', 'name', (['cat'],)),
        ('categories', 'id', (10,)),
    ],
)
def test_broken_entries_are_named(tmp_path: Path, where: str, field: str, values: Any) -> None:
    path = tmp_path / 'a.json'
    for value, read in itertools.product(values, (class_names, read_annotations)):
        given = content(['cat', 'dog'])
        given[where][0][field] = value
        path.write_text(json.dumps(given))
        with pytest.raises(UserError) as error:
            read(path)
        lines = [line for line in str(error.value).splitlines() if str(path) in line]
        word = 'size' if field == 'width' else field
        assert any(where in line and word in line for line in lines), lines


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write(tmp_path / f'{name}.json', content(['a', 'b'])) for name in ('train', 'val')]
    read: list[str] = []
    monkeypatch.setattr(annotations, 'load', lambda path: read.append(path.name) or load(path))
    for path in files:
        aligned_annotations(path, find_data(tmp_path).classes, tmp_path / 'copies')
    assert sorted(read) == ['train.json', 'val.json']
    write(files[1], content(['a', 'b', 'c']))
    with pytest.raises(UserError, match="the class 'c'"):
        find_data(tmp_path)


@pytest.mark.parametrize('order', [1, -1])
def test_an_empty_category_with_the_name_of_another_is_not_a_class(tmp_path: Path, order: int) -> None:
    given = content(['person', 'person', 'dog'], used=[1, 2])
    given['categories'][1]['supercategory'] = given['categories'][2]['supercategory'] = 'person'
    given['categories'] = given['categories'][::order]
    path = write_both(tmp_path, given)
    data = find_data(tmp_path)
    assert data.classes == ('person', 'dog')[::order]
    assert any('empty duplicate category (1)' in warning for warning in data.warnings)
    copy = aligned_annotations(path, data.classes, tmp_path / 'aligned')
    for read in (json.loads(copy.read_text()), read_truth(path)):
        assert [category['id'] for category in read['categories']] == [10, 20][::order]
    with pytest.raises(UserError, match='empty duplicate category'):  # as no copy is made of it
        quick_check([('train', Split(path, path.parent))])


def test_a_group_is_a_class_only_with_boxes(tmp_path: Path) -> None:
    for group, used, is_class in (('pieces', 1, False), ('pieces', 0, True), ('none', 1, True)):
        given = content(['pieces', 'bishop', 'king'], used=[used])
        for category in given['categories'][1:]:
            category['supercategory'] = group
        path = write(tmp_path / f'{group}{used}.json', given)
        assert class_names(path) == ('pieces', 'bishop', 'king')[not is_class :]


@pytest.mark.parametrize(
    ('key', 'field', 'value'), [('images', 'file_name', 'a\\0.jpg'), ('categories', 'name', 7)]
)
def test_names_in_another_form_are_corrected_in_a_copy(
    tmp_path: Path, key: str, field: str, value: Any
) -> None:
    given = content(['7', 'dog'])
    given['images'][0]['file_name'] = 'a/0.jpg'
    path = write(tmp_path / 'val.json', given)
    changed = json.loads(path.read_text())
    changed[key][0][field] = value
    path.write_text(json.dumps(changed))
    data = find_data(tmp_path, classes=('7', 'dog'))
    assert any(f'name in another form (1): {key}[0]' in line for line in data.warnings)
    copy = json.loads(aligned_annotations(path, data.classes, tmp_path / 'aligned').read_text())
    assert copy['images'] == given['images'] and copy['categories'][0]['name'] == '7'
    with pytest.raises(UserError, match='name in another form'):  # as no copy is made of it
        quick_check([('val', Split(path, tmp_path))])

"""A val made of a part of train: always the same images, the data set's classes, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data
from ghost_det.data.split import val_part
from ghost_det.errors import UserError
from tests.conftest import Cli

from .makers import coco, label, split_files, thing, voc

pytestmark = pytest.mark.usefixtures('cache')


def test_more_images_change_the_side_of_none_and_copies_stay_together() -> None:
    few = [f'{n}.jpg' for n in range(500)]
    first = val_part(few, 0.2)
    assert first == val_part([*few, *(f'more/{n}.png' for n in range(500))], 0.2) & {*few}
    assert 70 < len(first) < 130 and first < val_part(few, 0.5)
    for copies in ('{}_jpg.rf.a.jpg', '{}_jpg.rf.b.jpg'), ('{}.jpg', '{}.png'):
        names = [[copy.format(n) for copy in copies] for n in range(100)]
        part = val_part(sum(names, []), 0.2)
        assert part and all(len({name in part for name in each}) == 1 for each in names)
    assert val_part(['a.jpg', 'b.jpg'], 0.001)  # one image, whatever the share
    assert val_part(['a.jpg'], 0.2) == set()


def test_classes_of_a_made_val_are_those_of_the_data_set(tmp_path: Path) -> None:
    voc(tmp_path, 'images', 'annotations')
    for file in split_files(find_data(tmp_path))[1]:
        label(tmp_path / f'annotations/{Path(file).stem}.xml', thing('owl', 1, 1, 9, 9))  # not in train
    assert find_data(tmp_path).classes == ('cat', 'dog', 'owl')
    report = check_dataset(tmp_path, quick=True)
    assert not report.errors and 'category without boxes' in str(report)


def test_the_split_of_a_json_is_kept_until_it_changes(tmp_path: Path, cache: Path) -> None:
    path = coco(tmp_path / 'result.json', tmp_path / 'images')
    first = find_data(tmp_path)
    assert first.val.annotations.is_relative_to(cache) and find_data(tmp_path) == first
    assert len(split_files(find_data(tmp_path, val_share=0.5))[1]) > len(split_files(first)[1])
    assert first.val.annotations.is_file()  # a training may read it
    coco(path, tmp_path / 'images', 40)
    assert sum(map(len, split_files(find_data(tmp_path)))) == 40


def test_errors_in_a_lone_json_are_reported_where_they_are(tmp_path: Path) -> None:
    path = coco(tmp_path / 'train.json', tmp_path / 'images')
    content = json.loads(path.read_text())
    del content['annotations'][7]['bbox']
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'train.json: .*annotations\[7\]'):
        find_data(tmp_path)
    assert 'annotations[7]' in str(check_dataset(tmp_path, quick=True))
    coco(tmp_path / 'val.json', tmp_path, 0)  # a val without boxes is an error, too
    with pytest.raises(UserError, match='val.json'):
        find_data(tmp_path)


def test_a_val_that_is_named_leaves_all_of_train(tmp_path: Path) -> None:
    coco(tmp_path / 'set/result.json', tmp_path / 'set/images')
    val = coco(tmp_path / 'val.json', tmp_path / 'elsewhere', 3)
    data = find_data(tmp_path / 'set', val_ann=val, val_images=tmp_path / 'elsewhere')
    assert [len(part) for part in split_files(data)] == [20, 3]


def test_check_data_writes_the_split(tmp_path: Path, cli: Cli) -> None:
    voc(tmp_path / 'set', 'images', 'annotations')
    done = cli('check-data', tmp_path / 'set', '--val-share', '0.4', '-o', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    written, expected = find_data(tmp_path / 'out'), find_data(tmp_path / 'set', val_share=0.4)
    assert not written.notes
    for first, second in zip(split_files(written), split_files(expected)):
        assert {Path(file).name for file in first} == {Path(file).name for file in second}

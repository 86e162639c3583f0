"""Each kind of problem in a folder of its own, all in one folder, and what is reported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mmcv.transforms import LoadImageFromFile

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data
from ghost_det.data.findings import KINDS
from ghost_det.engine.messages import NamedCompose
from ghost_det.errors import UserError
from tests.conftest import ROOT, Cli

from .faults import OPENED, SIDE_EFFECTS, SPLIT_PROBLEMS, TOGETHER, Folder, hashes, kinds

pytestmark = pytest.mark.usefixtures('images_opened_here')

ELSEWHERE = {  # kinds that other files test
    'class name in config', 'class order in config', 'CLASSES in config', 'classes is a text', 'num_classes',
    'few anchors fit', 'turned boxes', 'wrong label file', 'label file without image', 'image without labels',
    'val was chosen', 'wrong image folder', 'data not used',
}  # fmt: skip


def small(root: Path, *names: str) -> Folder:
    folder = Folder(root / 'set', train=9, val=3)
    for name in names:
        (TOGETHER | SPLIT_PROBLEMS)[name](folder)
    return folder


def test_every_kind_is_tested_and_documented() -> None:
    assert TOGETHER.keys() | SPLIT_PROBLEMS.keys() | ELSEWHERE == set(KINDS)
    page = (ROOT / 'docs/data.md').read_text()
    assert not [k for k, v in KINDS.items() if f'| {k} | {v.severity} | {v.why} | {v.fix} |' not in page]


@pytest.mark.parametrize('kind', [None, *TOGETHER, *SPLIT_PROBLEMS])
def test_each_problem_is_found_on_its_own(tmp_path: Path, kind: str | None) -> None:
    found = kinds(check_dataset(small(tmp_path, *([kind] if kind else [])).save()))
    if kind in SPLIT_PROBLEMS:
        assert kind in found
        with pytest.raises(UserError):
            find_data(tmp_path / 'set')
    else:
        assert found == ({kind} if kind else set()) | SIDE_EFFECTS.get(str(kind), set())


def test_a_folder_with_one_of_each_is_reported_and_fixed(tmp_path: Path, cli: Cli) -> None:
    folder = Folder(tmp_path / 'a set', train=60)
    for put in TOGETHER.values():
        put(folder)
    folder.content['val']['categories'][0]['name'] = '<img src=x onerror=alert(1)>'
    before = hashes(folder.save())
    assert TOGETHER.keys() - OPENED <= kinds(check_dataset(folder.root, quick=True))
    out = '--html r.html --json r.json --fix fixed --jobs 2'
    done = cli('check-data', folder.root, *out.split(), cwd=tmp_path)
    assert done.returncode == 1 and 'the fixed copy has no errors' in done.stdout, done.stdout + done.stderr
    page = (tmp_path / 'r.html').read_text()
    assert '<td>&lt;img src=x' in page and '<img' not in page and '<script' not in page
    findings = json.loads((tmp_path / 'r.json').read_text())['findings']
    assert TOGETHER.keys() <= {finding['kind'] for finding in findings}
    severities = [finding['severity'] for finding in findings]
    assert severities == sorted(severities, key=('error', 'warning', 'note').index)
    for finding in findings:
        line = '{severity}: {kind}, {count}'.format(**finding)
        assert line in done.stdout and line in page
    fixed = check_dataset(tmp_path / 'fixed')
    assert fixed.errors == [] and not kinds(fixed) & {'same box twice', 'box sticks out', 'EXIF rotation'}
    # An image without problems is bit-identical.
    assert hashes(tmp_path / 'fixed')['train/0060.jpg'] == before['train2017/0060.jpg']
    for words in (f'--fix "{folder.root}/new"', '--fix new --quick', '--json "a set" --quick',
                  '--quick --json "a set/annotations/instances_val2017.json"'):  # fmt: skip
        done = cli(f'check-data "{folder.root}" {words}', cwd=tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert hashes(folder.root) == before


def test_hostile_entries_are_named_and_fixed(tmp_path: Path, cli: Cli) -> None:
    folder = Folder(tmp_path / 'set', train=16)
    content = folder.content['train']
    for name in ('\x1b[2Jgone.jpg', 'a\ud800.jpg', 'x' * 5000, '../' * 50 + 'etc/passwd', '/'):
        folder.take()[0]['file_name'] = name
    content['annotations'][5].update(id=[], area='much', iscrowd={})
    content['annotations'][6]['bbox'] = [10**400, 1, 2, 3]
    content['annotations'][7]['area'] = math.nan
    content['images'] += [None, 3, {'id': 2**80, 'file_name': 'x', 'width': 1, 'height': 1}]
    content['categories'].append({'id': 9, 'name': ''})
    report = check_dataset(folder.save())
    assert '\x1b' not in str(report) and r'\x1b[2Jgone.jpg' in str(report)
    counts = {finding.kind: finding.count for finding in report.findings}
    assert counts['missing file'] == 4 and counts['wrong entry'] == 6  # /etc/passwd is there, and no image
    done = cli('check-data', folder.root, '--fix', tmp_path / 'fixed')
    assert 'the fixed copy has no errors' in done.stdout
    SPLIT_PROBLEMS['no boxes'](folder)
    done = cli('check-data', folder.save(), '--fix', tmp_path / 'other')
    assert 'remaining errors:\ntrain: no boxes (1): it has none' in done.stdout


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
def test_boxes_that_are_not_trained_on(tmp_path: Path, flag: str) -> None:
    folder = small(tmp_path)
    boxes = folder.content['train']['annotations']
    for box in boxes:
        box[flag] = int(box['category_id'] == 2)
    report = check_dataset(folder.save(), quick=True)
    (found,) = (f for f in report.findings if f.kind == 'category without boxes')
    assert found.where == ("categories[1]: 'dog'",) and found.split == 'train'
    assert 'mmdet trains on 6 of 9 boxes; left out: 3 ' in str(report)
    for box in boxes:
        box[flag] = '1'
    with pytest.raises(UserError, match='nothing to learn from'):
        find_data(folder.save())


def test_places_are_positions_and_files_and_only_ten_are_shown(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set')
    for box in folder.content['train']['annotations'][17:30]:
        box['bbox'] = [1, 2, -3, 4]
    report = check_dataset(folder.save(), quick=True)
    (finding,) = report.findings
    assert finding.count == 13 and len(finding.where) == 10 and 'and 3 more' in str(report)
    assert finding.where[0] == 'annotations[17] (0018.jpg): bbox [1, 2, -3, 4] in 64 x 48'


# What CVAT writes of rotated objects, and of others; and polygons that fit their boxes, or are none.
ROTATION: list[Any] = [{'rotation': 42.5}, {'rotation': '90'}]
NO_ROTATION: list[Any] = [{'rotation': 0.0}, {'rotation': 180}, {'rotation': 'left'}, [{'rotation': 5}], None]
FITTING: list[Any] = [
    [],
    {'counts': [9, 3], 'size': [48, 64]},
    [[4, 5, 10, 5, 10, 8], [20, 10, 24, 12, 20, 17]],
    [[4.4, 5.4, 23.6, 16.6, 8, 9]],  # rounded
    [[4, 5, 23, 5, 23, 16, 4, 16]],  # of pixel centres
    [[1, 1, 1, 1, 1, 30]],  # a line
    [[40, 30, 60, 40]],  # two corners
    [40, 30, 60, 40, 50, 10],  # not a list of lists
    [['a', None, 60, 40, 50, 10], [10**400, 1, 60, 40, 50, 10]],
]


def test_fitting_polygons_and_upright_objects_are_no_problems(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=len(FITTING) + 2, val=3)
    *boxes, cut_off, tiny = folder.content['train']['annotations']
    cut_off.update(bbox=[44, 5, 20, 12], segmentation=[[44, 5, 90, 5, 90, 17, 44, 17]])
    tiny.update(bbox=[4, 5, 3, 3], segmentation=[[4.5, 5.5, 6, 7, 5, 6]])
    for box, polygon in zip(boxes, FITTING, strict=True):
        box.update(bbox=[4, 5, 20, 12], segmentation=polygon)
    for box, attributes in zip(boxes, ROTATION + NO_ROTATION):
        box['attributes'] = attributes
    (finding,) = check_dataset(folder.save(), quick=True).findings
    assert finding.kind == 'rotated box'
    assert [place.partition(' ')[0] for place in finding.where] == ['annotations[0]', 'annotations[1]']


def test_classes_of_val_are_compared_with_those_of_train(tmp_path: Path) -> None:
    folder = small(tmp_path)
    changed = "'cow' has the id 3 in train, 2 in val"
    for val, differ, unknown in (
        ('1 cat, 2 dog, 3 cow', (), ()),
        ('2 dog, 1 cat, 3 cow', ('the order differs',), ()),
        ('1 cat, 2 cow, 3 pig', ("'dog' is only in train", "'pig' is only in val", changed), ("'pig'",)),
    ):
        pairs = (text.split() for text in val.split(', '))
        folder.content['val']['categories'] = [{'id': int(number), 'name': name} for number, name in pairs]
        found = {f.kind: f.where for f in check_dataset(folder.save(), quick=True).findings}
        expected = {'classes differ': differ, 'class unknown in train': unknown}
        assert found == {kind: where for kind, where in expected.items() if where}


def test_training_stops_at_errors_and_continues_after_warnings(tmp_path: Path) -> None:
    for kind in ('missing file', 'swapped corners', 'box not finite', 'unknown image'):
        with pytest.raises(UserError, match=f'(?s)train: {kind} .*ghost-det check-data'):
            find_data(small(tmp_path / kind, kind).save())
    folder = small(tmp_path, 'box sticks out', 'duplicate box id')  # aligned annotations fix the second
    (warning,) = find_data(folder.save()).warnings
    assert warning.startswith('train: box sticks out (1): annotations[0] (0001.jpg)')
    for name in ('EXIF against boxes', 'EXIF rotation'):
        TOGETHER[name](folder)
    with pytest.raises(UserError, match=r'train: EXIF against boxes \(1\)'):
        find_data(folder.save())


def test_a_training_that_stops_at_an_image_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / 'a.jpg').write_bytes(b'\xff\xd8\xff')
    for name in ('a.jpg', 'none.jpg'):
        with pytest.raises(UserError, match=f'{name}: .*check-data lists wrong images and boxes'):
            NamedCompose([LoadImageFromFile()])({'img_path': str(tmp_path / name)})

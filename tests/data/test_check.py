"""Each kind of problem in a folder of its own, all in one folder, and what is reported."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from ghost_det import check_dataset
from ghost_det.commands import check_data
from ghost_det.config.load import load_config
from ghost_det.data.checks.fix import write_fixed
from ghost_det.data.checks.report import render
from ghost_det.data.dataset import find_data
from ghost_det.data.findings import KINDS
from ghost_det.engine.messages import NamedCompose
from ghost_det.errors import UserError, run_tool
from tests.conftest import ROOT

from .faults import ALONE, BESIDES, NAMES, TOGETHER, Folder, hashes, kinds, save_tagged

pytestmark = pytest.mark.usefixtures('images_opened_here')

# Kinds that are tested elsewhere.
OF_CONFIG = {'class name in config', 'class order in config', 'CLASSES in config', 'classes is a text'}
OF_CONFIG |= {'num_classes', 'few anchors fit'}
OF_LABELS = {'turned boxes', 'wrong label file', 'label file without image', 'image without labels'}
OF_FOLDERS = {'val was chosen', 'wrong image folder', 'data not used'}  # in test_layouts.py
IN_QUICK = set(TOGETHER) - {
    'unreadable image', 'wrong size', 'EXIF rotation', 'EXIF against boxes', 'grey image', 'image with alpha',
    '16-bit image', '32-bit image', 'CMYK image', 'huge image', 'same image twice', 'image in both splits',
}  # fmt: skip


def folder_with_all(root: Path) -> Path:
    folder = Folder(root, train=60)
    for put in TOGETHER.values():
        put(folder)
    return folder.save()


def test_every_kind_is_tested() -> None:
    assert set(TOGETHER) | set(ALONE) | OF_CONFIG | OF_LABELS | OF_FOLDERS == set(KINDS)


def test_every_kind_is_in_the_docs() -> None:
    page = (ROOT / 'docs/data.md').read_text()
    lost = [k for k, v in KINDS.items() if f'| {k} | {v.severity} | {v.why} | {v.fix} |' not in page]
    assert not lost


def test_nothing_is_found_in_a_sound_folder(tmp_path: Path) -> None:
    report = check_dataset(Folder(tmp_path / 'set').save())
    assert report.findings == [] and str(report).endswith('found: nothing')


@pytest.mark.parametrize('kind', TOGETHER)
def test_each_problem_is_found_on_its_own(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=9, val=3)
    TOGETHER[kind](folder)
    report = check_dataset(folder.save())
    assert kinds(report) == {kind} | BESIDES.get(kind, set()), str(report)
    assert all(f.count == 1 for f in report.findings if f.kind == kind) or kind == 'classes differ'
    assert kind in kinds(check_dataset(folder.root, quick=True)) or kind not in IN_QUICK
    write_fixed(report, tmp_path / 'fixed')
    after = check_dataset(tmp_path / 'fixed')
    assert after.errors == [], str(after)


def test_one_folder_with_one_of_each(tmp_path: Path) -> None:
    root = folder_with_all(tmp_path / 'set')
    before = hashes(root)
    report = check_dataset(root)
    assert not set(TOGETHER) - kinds(report)
    assert IN_QUICK <= kinds(check_dataset(root, quick=True))
    assert any('clipped' in line for line in write_fixed(report, tmp_path / 'fixed'))
    assert hashes(root) == before
    after = check_dataset(tmp_path / 'fixed')
    assert after.errors == [], str(after)
    # An image without problems is bit-identical.
    assert hashes(tmp_path / 'fixed')['train/0060.jpg'] == before['train2017/0060.jpg']


def test_hostile_entries_are_named_and_fixed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=16)
    content = folder.content['train']
    for name in ('\x1b[2Jgone.jpg', 'a\ud800.jpg', 'x' * 5000, '../' * 50 + 'etc/passwd', '/'):
        folder.take()[0]['file_name'] = name
    content['annotations'][5].update(id=[], area='much', iscrowd={})
    content['annotations'][6]['bbox'] = [10**400, 1, 2, 3]
    content['annotations'][7]['area'] = math.nan
    content['images'] += [None, 3, {'id': 2**80, 'file_name': 'x', 'width': 1, 'height': 1}]
    content['categories'][0]['supercategory'] = ['list']
    content['categories'].append({'id': 9, 'name': ''})
    content['info'] = 3
    report = check_dataset(folder.save())
    text = str(report)
    assert '\x1b' not in text and r'\x1b[2Jgone.jpg' in text
    text.encode()
    (lost,) = (f for f in report.findings if f.kind == 'missing file')
    (wrong,) = (f for f in report.findings if f.kind == 'wrong entry')
    assert (lost.count, wrong.count) == (4, 6)  # /etc/passwd is there, and no image
    assert 'train: 6 invalid entries dropped' in write_fixed(report, tmp_path / 'fixed')
    assert check_dataset(tmp_path / 'fixed').errors == []
    with pytest.raises(UserError, match='wrong entry'):
        find_data(folder.root)


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
def test_a_split_with_nothing_to_learn_from_is_refused(tmp_path: Path, flag: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    for box in folder.content['train']['annotations']:
        box[flag] = '1'
    assert 'all of its boxes are crowds or have ignore' in str(check_dataset(folder.save()).errors)
    with pytest.raises(UserError, match='all of its boxes are crowds or have ignore; nothing to learn from'):
        find_data(folder.root)


@pytest.mark.parametrize('kind', ALONE)
def test_problems_of_a_whole_split(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    ALONE[kind](folder)
    report = check_dataset(folder.save())
    assert kind in kinds(report), str(report)
    if kind == 'wrong json':
        assert 'in line 2' in str(report)
    if kind != 'missing split':
        with pytest.raises(UserError):
            find_data(folder.root)


def test_places_are_positions_and_files_and_only_ten_are_shown(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set')
    for box in folder.content['train']['annotations'][17:30]:
        box['bbox'] = [1, 2, -3, 4]
    (finding,) = check_dataset(folder.save(), quick=True).findings
    assert finding.count == 13 and len(finding.where) == 10
    assert finding.where[0] == 'annotations[17] (0018.jpg): bbox [1, 2, -3, 4] in 64 x 48'


FITTING_POLYGONS: list[Any] = [
    [],
    {'counts': [9, 3], 'size': [48, 64]},
    [[4, 5, 24, 5, 24, 17, 4, 17]],
    [[4, 5, 10, 5, 10, 8], [20, 10, 24, 12, 20, 17]],
    [[4.4, 5.4, 23.6, 16.6, 8, 9]],  # rounded
    [[4, 5, 23, 5, 23, 16, 4, 16]],  # of pixel centres
    [[1, 1, 1, 1, 1, 30]],  # a line
    [[40, 30, 60, 40]],  # two corners
    [40, 30, 60, 40, 50, 10],  # not a list of lists
    [['a', None, 60, 40, 50, 10]],
    [[10**400, 1, 60, 40, 50, 10]],
]


def test_boxes_that_fit_their_polygons(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=len(FITTING_POLYGONS) + 2, val=3)
    cut_off, small, *boxes = folder.content['train']['annotations']
    cut_off.update(bbox=[44, 5, 20, 12], segmentation=[[44, 5, 90, 5, 90, 17, 44, 17]])
    small.update(bbox=[4, 5, 3, 3], segmentation=[[4.5, 5.5, 6, 7, 5, 6]])
    for box, polygon in zip(boxes, FITTING_POLYGONS, strict=True):
        box.update(bbox=[4, 5, 20, 12], segmentation=polygon)
    assert check_dataset(folder.save(), quick=True).findings == []


def test_a_training_that_stops_at_an_image_names_the_fix(tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    for content in (b'\xff\xd8\xff', b'', None):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r'a\.jpg: .*check-data lists all such images; its --fix'):
            NamedCompose([LoadImageFromFile()])({'img_path': str(path)})


def test_the_page_needs_nothing_else_and_trusts_no_text(tmp_path: Path) -> None:
    evil = '<script>alert("$x^$")</script>'
    folder = Folder(tmp_path / 'set', train=4, val=3)
    for content in folder.content.values():
        content['categories'][0]['name'] = evil
    image, _, path = folder.take()
    image['file_name'] = '"><img src=x onerror=alert(1)>.jpg'
    report = check_dataset(folder.save(), config=load_config(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'))
    page = render(report)
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(page)
    allowed = {'html', 'head', 'meta', 'title', 'style', 'body', 'h1', 'h2', 'p', 'pre', 'img'}
    assert {tag for tag, _ in tags} <= allowed and 'onerror' in page
    pictures = [attributes['src'] or '' for tag, attributes in tags if tag == 'img']
    assert len(pictures) == 3 and all(p.startswith('data:image/png;base64,iVBOR') for p in pictures)
    assert not any('href' in attributes or 'onerror' in attributes for _, attributes in tags)


@pytest.mark.parametrize('kind', ['missing file', 'swapped corners', 'box not finite', 'unknown image'])
def test_training_stops_at_errors_and_names_the_tool(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    TOGETHER[kind](folder)
    with pytest.raises(UserError, match=f'(?s)train: {kind} .*ghost-det check-data'):
        find_data(folder.save())


def test_training_continues_after_warnings(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    TOGETHER['box sticks out'](folder)
    TOGETHER['duplicate box id'](folder)  # which aligned annotations fix
    (warning,) = find_data(folder.save()).warnings
    assert warning.startswith('train: box sticks out (1): annotations[0] (0001.jpg)')


@pytest.mark.slow
def test_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_with_all(tmp_path / 'a set')
    page, machine, fixed = tmp_path / 'r.html', tmp_path / 'r.json', tmp_path / 'fixed'
    options = ['--html', page, '--json', machine, '--fix', fixed, '--jobs', '2']
    command = [sys.executable, '-m', 'ghost_det_main', 'check-data', root, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'the fixed copy has no errors' in done.stdout
    found = {finding['kind'] for finding in json.loads(machine.read_text())['findings']}
    assert set(TOGETHER) <= found and page.read_text().startswith('<!doctype html>')
    assert NAMES[0] in (fixed / 'annotations/instances_train.json').read_text()

    annotations = root / 'annotations/instances_train2017.json'
    before = annotations.read_bytes()
    for words, message in (
        (['--quick', '--json', annotations], 'would replace what is read'),
        (['--html', tmp_path], 'got a folder'),
        (['--json', page / 'r.json'], 'its folder cannot be made'),
        (['--fix', fixed], 'not an empty folder'),
        (['--fix', root / 'new'], 'lies in the data set'),
        (['--fix', tmp_path / 'new', '--quick'], 'leave --quick out'),
        (['--jobs', '0'], 'from 1 up'),
    ):
        monkeypatch.setattr(sys, 'argv', ['check-data', str(root), *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_tool(check_data.main)
        printed = capsys.readouterr()
        assert ended.value.code == 2 and message in printed.err and 'Traceback' not in printed.err
        assert '--quick' in words or not printed.out  # refused before the check
    assert annotations.read_bytes() == before


def test_boxes_of_objects_that_cvat_has_turned_are_counted(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=8, val=3)
    attributes: list[Any] = [{'rotation': 42.5}, {'rotation': '90'}, {'rotation': 0.0}, {'rotation': 180}]
    attributes += [{'rotation': 'left'}, {'occluded': True}, [{'rotation': 5}], None]
    for box, value in zip(folder.content['train']['annotations'], attributes, strict=True):
        box['attributes'] = value
    (finding,) = check_dataset(folder.save(), quick=True).findings
    assert (finding.kind, finding.severity) == ('rotated box', 'warning')
    assert [place.partition(':')[0] for place in finding.where] == [
        'annotations[0] (0001.jpg)',
        'annotations[1] (0002.jpg)',
    ]


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
def test_a_class_of_crowds_only_is_reported(tmp_path: Path, flag: str) -> None:
    folder = Folder(tmp_path / 'set', train=6, val=3)
    for box in folder.content['train']['annotations']:
        box[flag] = int(box['category_id'] == 2)
    found = {f.kind: f for f in check_dataset(folder.save(), quick=True).findings}['category without boxes']
    assert found.where == ("categories[1]: 'dog'",) and found.split == 'train'


def test_tags_against_the_annotated_size_stop_a_training(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=6, val=3)
    TOGETHER['EXIF against boxes'](folder)
    image, _, path = folder.take()
    picture = Image.open(path)
    save_tagged(picture, folder.rename(image, path, '.tif'), 8)
    TOGETHER['EXIF rotation'](folder)
    folder.save()
    (found,) = check_dataset(folder.root, quick=True).errors
    assert (found.kind, found.count, found.split) == ('EXIF against boxes', 2, 'train')
    with pytest.raises(UserError, match=r'train: EXIF against boxes \(2\)'):
        find_data(folder.root)

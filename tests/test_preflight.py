"""Each kind of fault in a folder of its own, all in one, what is mended, and what is said."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from PIL import Image

from ghost_det import check_dataset
from ghost_det.config import load_config
from ghost_det.data import find_data
from ghost_det.errors import UserError
from ghost_det.preflight.check import Report
from ghost_det.preflight.findings import KINDS
from ghost_det.preflight.images import loaded_size, open_images
from ghost_det.preflight.mended import write_mended
from ghost_det.preflight.page import render

from .conftest import ROOT
from .faults import BESIDES, HEIGHT, NAMES, TOGETHER, WIDTH, Folder

# Kinds that leave no room for others in the split, and where they are tested.
ALONE = {'wrong json', 'empty split', 'missing split', 'no boxes'}
OF_CONFIG = {'class name in config', 'class order in config', 'CLASSES in config', 'classes is a text'}
OF_CONFIG |= {'num_classes', 'few anchors fit'}
OF_LABELS = {'wrong label file', 'label file without image', 'image without labels'}
OF_FOLDERS = {'val was chosen', 'wrong image folder'}  # in test_layouts.py
IN_QUICK = set(TOGETHER) - {
    'unreadable image', 'wrong size', 'EXIF rotation', 'EXIF against boxes', 'grey image', 'image with alpha',
    '16-bit image', 'CMYK image', 'huge image', 'same image twice', 'image in both splits',
}  # fmt: skip


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def tree(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob('*'))
        if p.is_file()
    }


def faulty(root: Path) -> Path:
    """A folder with one of each fault that can be there together."""
    folder = Folder(root, train=60)
    for put in TOGETHER.values():
        put(folder)
    return folder.save()


def test_every_kind_is_tested() -> None:
    assert set(TOGETHER) | ALONE | OF_CONFIG | OF_LABELS | OF_FOLDERS == set(KINDS)


def test_every_kind_is_in_the_docs() -> None:
    page = (ROOT / 'docs/data.md').read_text()
    lost = [k for k, v in KINDS.items() if f'| {k} | {v.severity} | {v.why} | {v.mend} |' not in page]
    assert not lost


def test_nothing_is_found_in_a_sound_folder(tmp_path: Path) -> None:
    report = check_dataset(Folder(tmp_path / 'set').save())
    assert report.findings == [] and str(report).endswith('found: nothing')


@pytest.mark.parametrize('kind', TOGETHER)
def test_each_fault_is_found_alone_and_mended(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=9, val=3)
    TOGETHER[kind](folder)
    before = tree(folder.save())
    report = check_dataset(folder.root, jobs=1)
    assert kinds(report) == {kind} | BESIDES.get(kind, set()), str(report)
    assert all(f.count == 1 for f in report.findings if f.kind == kind) or kind == 'classes differ'
    assert kind in kinds(check_dataset(folder.root, quick=True)) or kind not in IN_QUICK
    write_mended(report, tmp_path / 'mended')
    assert tree(folder.root) == before
    after = check_dataset(tmp_path / 'mended', jobs=1)
    assert after.errors == [], str(after)


def test_one_folder_with_one_of_each(tmp_path: Path) -> None:
    root = faulty(tmp_path / 'set')
    before = tree(root)
    report = check_dataset(root)
    print(report)
    missed = set(TOGETHER) - kinds(report)
    print(f'{len(TOGETHER) - len(missed)} of {len(TOGETHER)} kinds found')
    assert not missed
    assert IN_QUICK <= kinds(check_dataset(root, quick=True))
    changes = write_mended(report, tmp_path / 'mended')
    print('\n'.join(changes))
    assert any('clipped' in line for line in changes)
    assert tree(root) == before
    after = check_dataset(tmp_path / 'mended')
    assert after.errors == [], str(after)
    for name, content in before.items():  # what was not to be changed is the same file
        twin = tmp_path / 'mended' / name.replace('2017', '')
        if name.endswith('0040.jpg'):
            assert hashlib.sha256(twin.read_bytes()).hexdigest() == content


def test_hostile_entries_are_named_and_mended(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=12)
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
    (infinite,) = (f for f in report.findings if f.kind == 'box not finite')
    assert (lost.count, wrong.count, infinite.count) == (4, 5, 1)  # /etc/passwd is there, and no image
    assert 'train: 5 entries of another form left out' in write_mended(report, tmp_path / 'mended')
    assert check_dataset(tmp_path / 'mended').errors == []
    with pytest.raises(UserError, match='wrong entry'):
        find_data(folder.root)


def test_fixed_values_are_those_that_were_meant(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=8, val=3)
    boxes = folder.content['train']['annotations']
    boxes[0].update(area=0)
    boxes[1].update(area='12.5', iscrowd='1')
    boxes[2].update(area='much', iscrowd='False', ignore='0')
    boxes[3].update(area=math.inf, iscrowd=True, ignore=None)
    report = check_dataset(folder.save())
    counts = {finding.kind: finding.count for finding in report.findings}
    assert counts == {'impossible area': 3, 'number as text': 2, 'crowd box': 2}
    assert 'mmdet trains on 5 of 8 boxes; left out: 1 with an area of 0 or below, 2 crowd' in str(report)
    assert 'train: 4 areas or flags put right' in write_mended(report, tmp_path / 'fixed')
    text = (tmp_path / 'fixed/annotations/instances_train.json').read_text()
    fixed = [
        tuple(box.get(key) for key in ('area', 'iscrowd', 'ignore'))
        for box in json.loads(text)['annotations'][:4]
    ]
    assert repr(fixed) == '[(240, 0, None), (12.5, 1, None), (240, 0, 0), (240, 1, 0)]'


@pytest.mark.parametrize('flag', ['iscrowd', 'ignore'])
def test_a_split_with_nothing_to_learn_from_is_refused(tmp_path: Path, flag: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    for box in folder.content['train']['annotations']:
        box[flag] = '1'
    assert 'all of its boxes are crowds or have ignore' in str(check_dataset(folder.save()).errors)
    with pytest.raises(UserError, match='all of its boxes are crowds or have ignore; nothing to learn from'):
        find_data(folder.root)


def alone(kind: str, folder: Folder) -> None:
    train = folder.content['train']
    if kind == 'wrong json':
        folder.content['train'] = Text('{"images": [],\n"annotations": [,]}')
    elif kind == 'empty split':
        train['images'], train['annotations'] = [], []
    elif kind == 'no boxes':
        train['annotations'] = []
    elif kind == 'missing split':
        del folder.content['train']  # a val would be made


class Text(str):
    def pop(self, *_: object) -> None:
        """As of a dictionary without the key."""


@pytest.mark.parametrize('kind', sorted(ALONE))
def test_faults_of_a_whole_split(tmp_path: Path, kind: str) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    alone(kind, folder)
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


def test_boxes_that_are_all_corners_are_turned(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=9)
    wanted = []
    for number, box in enumerate(folder.content['train']['annotations']):
        wanted.append([20.0 + number, 16, 30, 20])
        box['bbox'] = [20.0 + number, 16, 50.0 + number, 36]
    report = check_dataset(folder.save())
    assert [f.kind for f in report.errors] == ['corners for sizes']
    write_mended(report, tmp_path / 'mended')
    content = json.loads((tmp_path / 'mended/annotations/instances_train.json').read_text())
    assert [box['bbox'] for box in content['annotations']] == wanted


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_size_after_exif_is_that_of_mmcv(tmp_path: Path, orientation: int) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    path = tmp_path / 'x.jpg'
    Image.new('RGB', (64, 48)).save(path, exif=tag)
    (facts,) = open_images([path], 1)
    loaded = mmcv.imfrombytes(path.read_bytes())  # as LoadImageFromFile does
    assert loaded_size(facts) == loaded.shape[1::-1]


def test_mended_images_are_seen_by_mmcv_as_their_boxes_are_meant(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=9)
    for kind in ('EXIF rotation', 'EXIF against boxes', '16-bit image', 'CMYK image'):
        TOGETHER[kind](folder)
    root = folder.save()
    write_mended(check_dataset(root), tmp_path / 'mended')
    old, new = root / 'train2017', tmp_path / 'mended/train'

    def distance(first: Any, second: Any) -> float:
        return float(np.abs(first.astype(float) - second).mean())

    turned, plain = (mmcv.imread(str(new / f'000{n}.jpg')) for n in (1, 2))
    assert distance(mmcv.imread(str(old / '0001.jpg')), turned) < 3
    assert plain.shape == (HEIGHT, WIDTH, 3)
    assert distance(mmcv.imread(str(old / '0002.jpg'), flag='color_ignore_orientation'), plain) < 3
    dark, light = (mmcv.imread(str(each / '0003.png')) for each in (old, new))
    assert dark.max() < 16 and light.max() > 127
    assert Image.open(new / '0004.jpg').mode == 'RGB'


def test_a_decoder_that_dies_takes_one_image_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / 'dies.py'
    script.write_text(
        'import json, os, sys\n'
        'for path in json.load(sys.stdin):\n'
        '    if path.endswith("1"): os._exit(9)\n'
        '    print(json.dumps({"hash": path}), flush=True)\n'
    )
    monkeypatch.setattr('ghost_det.preflight.images.opened.__file__', str(script))
    facts = open_images([Path(str(n)) for n in range(5)], 2)
    assert ['error' in each for each in facts] == [False, True, False, False, False]
    assert 'exit code 9' in facts[1]['error']


def test_an_interruption_does_not_wait_for_the_other_images(tmp_path: Path) -> None:
    script = tmp_path / 'slow.py'
    script.write_text(
        'import json, sys, time\n'
        'for path in json.load(sys.stdin):\n'
        '    time.sleep(0.05)\n'
        '    print("{}", flush=True)\n'
    )
    code = (
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from pathlib import Path; from ghost_det.preflight import images\n'
        f'images.opened.__file__ = {str(script)!r}; print("go", flush=True)\n'
        'images.open_images([Path("a")] * 1000, 2)'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b'go\n'
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)  # all of them take 25 s
    assert b'KeyboardInterrupt' in said


def test_formats_that_mmcv_does_not_read_are_not_opened(tmp_path: Path) -> None:
    for form in ('BMP', 'EPS', 'PCX', 'TIFF'):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{form}.jpg', form)
    paths = sorted(tmp_path.iterdir())
    refused = 'no image of a format that mmcv reads'
    assert [each.get('error') for each in open_images(paths, 1)] == [None, refused, refused, None]
    assert [mmcv.imread(str(path)) is None for path in paths] == [False, True, True, False]


def test_workers_import_no_torch() -> None:
    code = 'import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit("torch" in sys.modules)'
    script = ROOT / 'ghost_det/preflight/opened.py'
    subprocess.run([sys.executable, '-c', code, str(script)], check=True)


def test_the_copy_is_refused_where_it_could_hurt(tmp_path: Path) -> None:
    root = Folder(tmp_path / 'set', train=4, val=3).save()
    report = check_dataset(root)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').touch()
    for out, message in (
        (root / 'train2017/out', 'lies in the data set'),
        (root / 'annotations', 'lies in the data set'),
        (tmp_path, 'or around it'),
        (tmp_path / 'full', 'not an empty folder'),
        (tmp_path / 'full/file', 'not an empty folder'),
    ):
        with pytest.raises(UserError, match=message):
            write_mended(report, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['full', 'set']


def test_names_of_files_cannot_lead_out_of_the_copy(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'a/set', train=4, val=3)
    image, _, path = folder.take()
    path.rename(tmp_path / 'a/escaped.jpg')
    image['file_name'] = '../../escaped.jpg'
    other, _, path = folder.take()
    path.rename(path.with_name('escaped.jpg'))
    other['file_name'] = 'escaped.jpg'
    write_mended(check_dataset(folder.save()), tmp_path / 'b/c/mended')
    assert sorted(p.name for p in (tmp_path / 'b').rglob('*escaped*')) == ['_escaped.jpg', 'escaped.jpg']
    assert all(p.parent.name == 'train' for p in (tmp_path / 'b').rglob('*escaped*'))
    assert check_dataset(tmp_path / 'b/c/mended').findings == []


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
    with pytest.raises(UserError, match=f'(?s)train: {kind} .*tools/check_data.py'):
        find_data(folder.save())


def test_training_goes_on_after_warnings(tmp_path: Path) -> None:
    folder = Folder(tmp_path / 'set', train=4, val=3)
    TOGETHER['box sticks out'](folder)
    TOGETHER['duplicate box id'](folder)  # which aligned annotations mend
    (warning,) = find_data(folder.save()).warnings
    assert warning.startswith('train: box sticks out (1): annotations[0] (0001.jpg)')


def check_tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, 'tools/check_data.py', *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.mark.slow
def test_the_tool(tmp_path: Path) -> None:
    root = faulty(tmp_path / 'a set')
    page, machine, mended = tmp_path / 'r.html', tmp_path / 'r.json', tmp_path / 'mended'
    done = check_tool(root, '--html', page, '--json', machine, '--fix', mended, '--jobs', '2')
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'the mended copy has no errors' in done.stdout
    found = {finding['kind'] for finding in json.loads(machine.read_text())['findings']}
    assert set(TOGETHER) <= found and page.read_text().startswith('<!doctype html>')
    assert NAMES[0] in (mended / 'annotations/instances_train.json').read_text()
    truth = root / 'annotations/instances_train2017.json'
    before = truth.read_bytes()
    done = check_tool(root, '--quick', '--json', truth)
    assert done.returncode == 2 and 'would replace what is read' in done.stderr
    assert truth.read_bytes() == before
    for option, place, says in (
        ('--html', tmp_path, 'this is a folder'),
        ('--json', page / 'r.json', 'its folder cannot be made'),
        ('--fix', mended, 'not an empty folder'),
        ('--fix', root / 'new', 'lies in the data set'),
    ):
        done = check_tool(root, option, place)
        assert done.returncode == 2 and says in done.stderr and not done.stdout  # before the check
    done = check_tool(tmp_path / 'nowhere')
    assert done.returncode == 2 and 'Traceback' not in done.stderr and 'a folder is wanted' in done.stderr

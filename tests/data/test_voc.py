"""Pascal VOC: boxes, wrong files, images that EXIF turns."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError

from .makers import NAMES, label, picture, read_boxes, thing, tree, voc, voc_lists

pytestmark = pytest.mark.usefixtures('cache')


@pytest.mark.parametrize('lists', [False, True])
def test_pixels_count_from_one_and_difficult_objects_are_crowds(tmp_path: Path, lists: bool) -> None:
    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:]) if lists else voc(tmp_path, 'a', 'a')
    file = tmp_path / ('Annotations' if lists else 'a') / 'im 1.xml'
    label(file, thing('dog', 1, 1, 40, 30), thing('cat', 20, 15, 11, 6, difficult=1))  # swapped corners
    boxes = read_boxes(tmp_path)['im 1.jpg']
    assert boxes == [('dog', [0, 0, 40, 30]), ('cat', [10, 5, 10, 10])]
    data = find_data(tmp_path)
    assert data.train is not None
    content = json.loads(data.train.annotations.read_text())
    assert sum(box['iscrowd'] for box in content['annotations']) == 1


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
        '<annotations/>',
        '<annotation><object><name>dog</name></object></annotation>',
        f'<annotation>{thing("", 1, 1, 9, 9)}</annotation>',
        f'<annotation>{thing("dog", 1, 1, 9)}</annotation>',
        f'<annotation>{thing("dog", 1, 1, float("nan"), 9)}</annotation>',
        f'<annotation>{thing("dog", 1, 1, 9, 9).replace("> 1", ">a", 1)}</annotation>',
    ],
)
def test_wrong_xml_files_are_named(tmp_path: Path, xml: str) -> None:
    voc(tmp_path / 'train', '.', '.', ['a', 'b'])
    voc(tmp_path / 'valid', '.', '.', ['c', 'd'])
    (tmp_path / 'train/b.xml').write_text(xml)
    (finding,) = check_dataset(tmp_path, quick=True).errors
    assert (finding.kind, finding.split) == ('wrong label file', 'train')
    assert finding.where[0].startswith('train/b.xml of train/b.jpg: ')
    with pytest.raises(UserError, match='train/b.xml'):
        find_data(tmp_path)


def test_names_of_lists_may_have_blanks_flags_and_folders(tmp_path: Path) -> None:
    voc(tmp_path, 'JPEGImages/cam 1', 'Annotations/cam 1', ['photo', 'photo 1', 'photo 0'], suffix='.png')
    voc(tmp_path, 'JPEGImages', 'Annotations', ['other', 'photo'])
    lists = {'train': 'cam 1/photo\nphoto 1  -1\n', 'val': 'photo 0\n\nother 1\nphoto\n'}
    tree(tmp_path, {f'ImageSets/Main/{name}.txt': lines for name, lines in lists.items()})
    assert [*read_boxes(tmp_path)] == ['photo.png', 'photo 1.png']
    assert [*read_boxes(tmp_path, 'val')] == ['photo 0.png', 'other.jpg', 'photo.jpg']
    (tmp_path / 'Annotations/other.xml').unlink()
    (tmp_path / 'JPEGImages/cam 1/photo.png').unlink()
    found = {finding.kind: finding.where[0] for finding in check_dataset(tmp_path, quick=True).errors}
    assert found['missing file'] == 'JPEGImages/cam 1/photo.jpg'
    assert found['wrong label file'].startswith('Annotations/other 1.xml of JPEGImages/other.jpg')


def test_an_image_of_any_claimed_size_is_named(tmp_path: Path) -> None:
    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:])
    path = tmp_path / 'JPEGImages/im 1.jpg'
    content = bytearray(path.read_bytes())
    frame = content.index(b'\xff\xc0')
    content[frame + 5 : frame + 9] = b'\xff\xdc' * 2  # 65,500 x 65,500
    path.write_bytes(content)
    (finding,) = check_dataset(tmp_path, quick=True).errors
    assert 'im 1.jpg' in finding.where[0]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'defusedxml.ElementTree', None)
    with pytest.raises(UserError, match=r'pip install "ghost-det\[data\]"'):
        find_data(voc(tmp_path, '.', '.'))


def write_sized(path: Path, size: tuple[int, int], *things: str) -> None:
    """Write an xml file with a size."""
    text = f'<size><width>{size[0]}</width><height>{size[1]}</height></size>{"".join(things)}'
    path.write_text(f'<annotation>{text}</annotation>')


@pytest.mark.parametrize('orientation', range(5, 9))
def test_boxes_of_the_stored_image_are_turned_with_it(tmp_path: Path, orientation: int) -> None:
    from mmcv import imfrombytes

    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:])
    write_sized(tmp_path / 'Annotations/im 1.xml', (40, 30), thing('cat', 3, 6, 12, 11))
    stored = Image.new('RGB', (40, 30))
    stored.paste('white', (2, 5, 12, 11))
    tag = Image.Exif()
    tag[0x0112] = orientation
    path = tmp_path / 'JPEGImages/im 1.jpg'
    stored.save(path, exif=tag, quality=95)
    assert any('turned boxes (1): Annotations/im 1.xml' in line for line in find_data(tmp_path).warnings)
    x, y, width, height = read_boxes(tmp_path)['im 1.jpg'][0][1]
    rows, columns = np.nonzero(imfrombytes(path.read_bytes())[..., 0] > 127)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == (x, y, x + width, y + height)


@pytest.mark.parametrize(
    ('size', 'box', 'orientation', 'right'),
    [
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
    write_sized(tmp_path / 'Annotations/im 1.xml', size, thing('cat', *box))
    picture(tmp_path / 'JPEGImages/im 1.jpg', orientation=orientation)
    errors = check_dataset(tmp_path, quick=True).errors
    assert [error.kind for error in errors] == ([] if right else ['wrong size'])
    assert not right or read_boxes(tmp_path)['im 1.jpg'] == [('cat', [0, 0, *box[2:]])]

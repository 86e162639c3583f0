"""Pascal VOC: boxes, wrong files, images that EXIF turns."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmcv import imfrombytes
from PIL import Image

from ghost_det import check_dataset
from ghost_det.data.dataset import find_data
from ghost_det.errors import UserError

from .makers import NAMES, label, orientation_tag, picture, read_boxes, thing, tree, voc, voc_lists

pytestmark = pytest.mark.usefixtures('cache')


@pytest.mark.parametrize('lists', [False, True])
def test_pixels_count_from_one_and_difficult_objects_are_crowds(tmp_path: Path, lists: bool) -> None:
    voc_lists(tmp_path, train=NAMES[:2], val=NAMES[2:]) if lists else voc(tmp_path, 'a', 'a')
    things = thing('dog', 1, 1, 40, 30) + thing('cat', 20, 15, 11, 6, difficult=1)  # swapped corners
    label(tmp_path / ('Annotations' if lists else 'a') / 'im 1.xml', things)
    assert read_boxes(tmp_path)['im 1.jpg'] == [('dog', [0, 0, 40, 30]), ('cat', [10, 5, 10, 10])]
    boxes = json.loads(find_data(tmp_path).train.annotations.read_text())['annotations']  # type: ignore[union-attr]
    assert [box['area'] for box in boxes if box['iscrowd']] == [100]


DTD = '<!DOCTYPE b [<!ENTITY x {}>]><annotation><object><name>&x;</name></object></annotation>'


@pytest.mark.parametrize(
    'xml',
    [
        DTD.format('"aaaaaaaaaa"'),  # defusedxml refuses all entities, so bombs of them, too
        DTD.format('SYSTEM "file:///etc/passwd"'),
        '<annotation><object>',
        '<annotations/>',
        '<annotation><object><name>dog</name></object></annotation>',
        f'<annotation>{thing("", 1, 1, 9, 9)}</annotation>',
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


def test_names_of_lists_may_have_blanks_flags_and_folders(tmp_path: Path) -> None:
    voc(tmp_path, 'JPEGImages/cam 1', 'Annotations/cam 1', ['photo', 'photo 1', 'photo 0'], suffix='.png')
    voc(tmp_path, 'JPEGImages', 'Annotations', ['other', 'photo'])
    lists = {'train': 'cam 1/photo\nphoto 1  -1\n', 'val': 'photo 0\n\nother 1\nphoto\n'}
    tree(tmp_path / 'ImageSets/Main', {f'{name}.txt': lines for name, lines in lists.items()})
    assert [*read_boxes(tmp_path)] == ['photo.png', 'photo 1.png']
    assert [*read_boxes(tmp_path, 'val')] == ['photo 0.png', 'other.jpg', 'photo.jpg']
    label(tmp_path / 'Annotations/unlisted.xml')
    (tmp_path / 'Annotations/other.xml').unlink()
    (tmp_path / 'JPEGImages/cam 1/photo.png').unlink()
    found = {each.kind: each.where[0] for each in check_dataset(tmp_path, quick=True).findings if each.where}
    assert 'label file without image' not in found
    assert found['missing file'] == 'JPEGImages/cam 1/photo.jpg'
    assert found['wrong label file'].startswith('Annotations/other 1.xml of JPEGImages/other.jpg')
    (tmp_path / 'ImageSets/Main/val.txt').write_bytes(b'photo\xff\n')
    with pytest.raises(UserError, match='val.txt: cannot be read'):
        find_data(tmp_path)


def write_sized(root: Path, size: tuple[int, int], *box: float) -> Path:
    """Write a data set, of which one xml file has a size and this box; return the image of it."""
    voc_lists(root, train=NAMES[:2], val=NAMES[2:])
    text = f'<size><width>{size[0]}</width><height>{size[1]}</height></size>{thing("cat", *box)}'
    label(root / 'Annotations/im 1.xml', text)
    return root / 'JPEGImages/im 1.jpg'


@pytest.mark.parametrize('orientation', range(5, 9))
def test_boxes_of_the_stored_image_are_turned_with_it(tmp_path: Path, orientation: int) -> None:
    path = write_sized(tmp_path, (40, 30), 3, 6, 12, 11)
    stored = Image.new('RGB', (40, 30))
    stored.paste('white', (2, 5, 12, 11))
    stored.save(path, exif=orientation_tag(orientation), quality=95)
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
        ((40, 30), (1, 1, 45, 20), 6, False),
    ],
)
def test_a_size_in_the_xml_that_is_not_the_images_is_an_error(
    tmp_path: Path, size: tuple[int, int], box: tuple[int, ...], orientation: int, right: bool
) -> None:
    picture(write_sized(tmp_path, size, *box), orientation=orientation)
    errors = check_dataset(tmp_path, quick=True).errors
    assert [error.kind for error in errors] == ([] if right else ['wrong size'])
    assert not right or read_boxes(tmp_path)['im 1.jpg'] == [('cat', [0, 0, *box[2:]])]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'defusedxml.ElementTree', None)
    with pytest.raises(UserError, match=r'pip install "ghost-det\[data\]"'):
        find_data(voc(tmp_path, '.', '.'))

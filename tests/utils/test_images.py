from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from PIL import Image

from ghost_det.errors import UserError
from ghost_det.utils.files import write_file
from ghost_det.utils.images import encode_image, find_images, images_in, picture_name, read_image, visible


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_found_at_any_depth_but_not_hidden_or_skipped_ones(tmp_path: Path) -> None:
    root = tmp_path / '.cache/set'  # what is above the folder does not matter
    make(root, 'b/é.jpg', 'a/2.PNG', 'a/1.jpeg', 'c.webp', 'notes.txt', 'out/c.webp', 'x.png/d.bmp')
    make(root, '._1.jpg', '.trash/2.jpg', 'sub/.3.jpg')
    (root / 'link').symlink_to('out')
    found = find_images([root], root / 'out')
    assert [str(path.relative_to(root)) for path in found] == [
        'a/1.jpeg', 'a/2.PNG', 'b/é.jpg', 'c.webp', 'x.png/d.bmp'
    ]  # fmt: skip
    assert [path.name for path in images_in(root / 'a')] == ['1.jpeg', '2.PNG']
    assert [path.name for path in visible(root, '*.w*')] == ['c.webp']


def test_each_file_once_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path('b.jpg'), Path('a.txt'), Path('c.jpg')]
    make(tmp_path, *map(str, files))
    assert find_images([*files, tmp_path / 'b.jpg', Path('.')]) == files
    make(tmp_path, 'empty/notes.txt', 'empty/._1.jpg')
    for path in (tmp_path / 'empty', tmp_path / 'nowhere.jpg'):
        with pytest.raises(UserError, match=f'^{path}: no '):
            find_images([path])


def test_links_to_folders_are_followed_and_loops_are_cut(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / 'root', tmp_path / 'elsewhere/deep'
    make(tmp_path, 'elsewhere/deep/1.jpg', 'root/a/0.jpg')
    for link, target in (('b', tmp_path / 'elsewhere'), ('c', 'a'), ('a/up', '..'), ('itself', 'itself')):
        (root / link).symlink_to(target)
    (elsewhere / 'back').symlink_to(root)
    (root / 'lost.jpg').symlink_to('nowhere.jpg')  # reported when it is read
    found = [path.relative_to(root).as_posix() for path in find_images([root])]
    assert found == ['a/0.jpg', 'b/deep/1.jpg', 'c/0.jpg', 'lost.jpg']


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def test_other_kinds_of_pixels_are_read_as_by_mmcv(tmp_path: Path) -> None:
    for name, pixels in (
        ('grey.png', noise(9, 8)),
        ('deep.tif', noise(9, 8, dtype=np.uint16)),
        ('alpha ü.png', noise(9, 8, 4)),
        ('palette.gif', noise(9, 8)),
    ):
        Image.fromarray(pixels).save(tmp_path / name)
        image = read_image(tmp_path / name)
        assert (image.shape, image.dtype) == ((9, 8, 3), 'uint8')
        np.testing.assert_array_equal(image, mmcv.imread(str(tmp_path / name)), name)


def huge(path: Path, width: int, height: int) -> None:
    """Write a small PNG file that claims a size."""
    content = bytearray(encode_image(noise(9, 8, 3), '.png'))
    content[16:24] = struct.pack('>II', width, height)
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    path.write_bytes(content)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    make(tmp_path, 'empty.jpg', 'folder.png/x')
    (tmp_path / 'text.png').write_text('no image')
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'cut.png').write_bytes(encode_image(noise(90, 90, 3), '.png')[:20])
    huge(tmp_path / 'huge.png', 60_000, 60_000)
    for name, reason in (
        ('nowhere.png', 'nothing'),
        ('folder.png', 'a folder'),
        ('pipe.png', 'a pipe'),
        ('empty.jpg', 'an empty file'),
        ('text.png', 'a format'),
        ('cut.png', 'damaged'),
        ('huge.png', 'over 100 megapixels'),
    ):
        with pytest.raises(UserError, match=f'{name}: .*{reason}'):
            read_image(tmp_path / name)


def test_pictures_are_written_in_the_format_of_their_names(tmp_path: Path) -> None:
    for name, picture in (('a.PNG', 'a.PNG'), ('b.jpeg', 'b.jpeg'), ('c.tif', 'c.tif.jpg'), ('d', 'd.jpg')):
        path = tmp_path / name / picture_name(Path(name))
        write_file(path, encode_image(noise(9, 8, 3), path.suffix))
        assert read_image(path).shape == (9, 8, 3)
        assert [each.name for each in path.parent.iterdir()] == [picture]

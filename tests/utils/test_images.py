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
from ghost_det.utils.images import encode_image, find_images, picture_name, read_image, write_file


def find(*paths: Path) -> list[Path]:
    return find_images(paths, skip=lambda path: path.name.endswith('.chart.png'))


def test_folders_are_searched_to_their_depths(tmp_path: Path) -> None:
    for name in ('b/é.jpg', 'a/2.PNG', 'a/1.jpeg', 'c.webp', 'notes.txt', 'c.webp.chart.png', 'x.png/d.bmp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find(tmp_path)]
    assert found == ['a/1.jpeg', 'a/2.PNG', 'b/é.jpg', 'c.webp', 'x.png/d.bmp']


def test_each_file_once_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path('b.jpg'), Path('a.txt'), Path('c.jpg')]
    for file in files:
        file.touch()
    assert find(*files, tmp_path / 'b.jpg', Path('.')) == files


def test_links_to_folders_are_followed_and_loops_are_cut(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / 'root', tmp_path / 'elsewhere/deep'
    elsewhere.mkdir(parents=True)
    (elsewhere / '1.jpg').touch()
    (root / 'a').mkdir(parents=True)
    (root / 'a/0.jpg').touch()
    (root / 'b').symlink_to(tmp_path / 'elsewhere')
    (root / 'c').symlink_to('a')  # a second path to the same image
    (root / 'a/up').symlink_to('..')
    (elsewhere / 'back').symlink_to(root)
    (root / 'itself').symlink_to('itself')
    (root / 'lost.jpg').symlink_to('nowhere.jpg')  # to be reported by whoever reads it
    found = [path.relative_to(root).as_posix() for path in find(root)]
    assert found == ['a/0.jpg', 'b/deep/1.jpg', 'c/0.jpg', 'lost.jpg']


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    root = tmp_path / '.cache/set'  # what is above the folder does not matter
    for name in ('1.jpg', '._1.jpg', '.trash/2.jpg', 'sub/.3.jpg', 'sub/4.jpg'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert [path.name for path in find(root)] == ['1.jpg', '4.jpg']
    (tmp_path / '.cache/bare').mkdir()
    (tmp_path / '.cache/bare/._1.jpg').touch()
    with pytest.raises(UserError, match='no images in this folder'):
        find(tmp_path / '.cache/bare')


def test_paths_without_images(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(UserError, match=f'{tmp_path}: no images in this folder'):
        find(tmp_path)
    with pytest.raises(UserError, match=r'nowhere\.jpg: no such file or folder'):
        find(tmp_path / 'nowhere.jpg')


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def rotated(orientation: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize('orientation', range(1, 9))
def test_pixels_are_those_of_mmcv_and_upright(orientation: int, tmp_path: Path) -> None:
    path = save(tmp_path / 'ü b.jpg', noise(20, 30, 3), exif=rotated(orientation))
    image = read_image(path)
    assert image.shape == ((30, 20, 3) if orientation > 4 else (20, 30, 3))
    np.testing.assert_array_equal(image, mmcv.imread(str(path)))


@pytest.mark.parametrize(
    ('name', 'pixels'),
    [
        ('grey.png', noise(9, 8)),
        ('deep.png', noise(9, 8, dtype=np.uint16)),
        ('deep.tif', noise(9, 8, dtype=np.uint16)),
        ('alpha.png', noise(9, 8, 4)),
        ('grey_alpha.png', noise(9, 8, 2)),
        ('colour.webp', noise(9, 8, 3)),
        ('palette.gif', noise(9, 8)),
        ('colour.bmp', noise(9, 8, 3)),
    ],
)
def test_other_kinds_of_images(name: str, pixels: np.ndarray, tmp_path: Path) -> None:
    path = save(tmp_path / name, pixels)
    image = read_image(path)
    assert (image.shape, image.dtype) == ((9, 8, 3), 'uint8')
    np.testing.assert_array_equal(image, mmcv.imread(str(path)))


def huge(path: Path, width: int, height: int) -> Path:
    """A PNG file of a few bytes that claims a size."""
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    data = b'IDAT' + zlib.compress(b'')
    chunks = (struct.pack('>I', len(c) - 4) + c + struct.pack('>I', zlib.crc32(c)) for c in (header, data))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunks))
    return path


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / 'empty.jpg').touch()
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'folder.png').mkdir()
    os.mkfifo(tmp_path / 'pipe.png')
    whole = save(tmp_path / 'a.png', noise(90, 90, 3)).read_bytes()
    (tmp_path / 'cut.png').write_bytes(whole[:20])
    huge(tmp_path / 'huge.png', 60_000, 60_000)
    for name, message in (
        ('nowhere.png', 'expected an image, got nothing'),
        ('folder.png', 'expected an image, got a folder'),
        ('pipe.png', 'expected an image, got a pipe'),
        ('empty.jpg', 'an empty file'),
        ('text.png', 'no image that can be decoded: damaged, or of a format'),
        ('cut.png', 'no image that can be decoded'),
        ('huge.png', 'no image that can be decoded: over 100 megapixels'),
    ):
        with pytest.raises(UserError, match=f'{name}: {message}'):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ('name', 'picture'), [('a.PNG', 'a.PNG'), ('b.jpeg', 'b.jpeg'), ('c.tif', 'c.tif.jpg'), ('d', 'd.jpg')]
)
def test_pictures_are_written_as_their_names_say(name: str, picture: str, tmp_path: Path) -> None:
    path = tmp_path / 'new' / picture_name(Path(name))
    assert path.name == picture
    write_file(path, encode_image(noise(9, 8, 3), path.suffix))
    assert read_image(path).shape == (9, 8, 3)
    assert [each.name for each in path.parent.iterdir()] == [picture]


def test_a_file_in_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        write_file(tmp_path / 'file/a.png', b'')

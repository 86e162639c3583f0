from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from ghost_det.deploy.video import (
    VideoReader,
    VideoWriter,
    encode_image,
    picture_name,
    read_image,
    write_file,
)
from ghost_det.errors import UserError


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
        ('nowhere.png', 'an image is wanted, found nothing'),
        ('folder.png', 'an image is wanted, found a folder'),
        ('pipe.png', 'an image is wanted, found a pipe'),
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


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        write_file(tmp_path / 'file/a.png', b'')
    with pytest.raises(UserError, match='cannot be written'):
        VideoWriter(tmp_path / 'file/a.mp4', 10)


def grey_frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), 10 * index, np.uint8) for index in range(count)]


def test_a_video_keeps_frames_order_and_rate(tmp_path: Path) -> None:
    path = tmp_path / 'ü %d.mp4'
    with VideoWriter(path, 12.5) as writer:
        for frame in grey_frames(20):
            writer.write(frame)
        writer.write(grey_frames(20, 24, 32)[10])  # another size
    reader = VideoReader(str(path))
    assert (reader.fps, reader.count, reader.is_camera) == (12.5, 21, False)
    frames = list(reader)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    levels = [frame.mean() for frame in frames]
    np.testing.assert_allclose(levels, [*range(0, 200, 10), 100], atol=4)


def test_after_an_error_nothing_is_left_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / 'a.mp4'
    path.write_text('an earlier one')
    with pytest.raises(ZeroDivisionError), VideoWriter(path, 10) as writer:
        writer.write(grey_frames(1)[0])
        raise ZeroDivisionError
    assert path.read_text() == 'an earlier one'
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / 'empty.mp4').touch()
    (tmp_path / 'text.mp4').write_text('no video')
    (tmp_path / 'folder.mp4').mkdir()
    for name, message in (
        ('nowhere.mp4', 'a video is wanted, found no file'),
        ('folder.mp4', 'a video is wanted, found a folder'),
        ('empty.mp4', 'a video is wanted, found an empty file'),
        ('text.mp4', 'no video that OpenCV reads'),
    ):
        with pytest.raises(UserError, match=f'{name}: {message}'):
            VideoReader(str(tmp_path / name))


def test_a_camera_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Closed:
        def __init__(self, *source: Any) -> None:
            asked.extend(source)

        def isOpened(self) -> bool:  # noqa: N802
            return False

    monkeypatch.setattr(cv2, 'VideoCapture', Closed)
    with pytest.raises(UserError, match='^7: no such camera'):
        VideoReader('7')
    assert asked == [7]

"""Images, videos and cameras, read and written."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.files import PARTIAL, atomic

MAX_PIXELS = 100_000_000
"""Larger images are not decoded: a small file can claim any size."""
MAX_BYTES = 2**30
VIDEOS = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.ts', '.flv', '.ogv')
FPS = 25.0

# OpenCV looks at these when it is first imported: too late where mmcv has done that already.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # of a damaged video we say more ourselves
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from .letterbox import Image  # noqa: E402


def read_image(path: Path) -> Image:
    """Return an image as mmcv loads it: in BGR, 8 bits, turned by EXIF as OpenCV does, no transparency.

    Raises:
        UserError: the file cannot be read; the message says why.
    """
    if not path.is_file():  # a pipe would be waited for
        found = 'a folder' if path.is_dir() else 'a pipe or a device' if path.exists() else 'nothing'
        raise UserError(f'{path}: an image is wanted, found {found}')
    try:
        with path.open('rb') as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from None
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> Image:
    """Return the image of a file's content, or of its first `MAX_BYTES` and one more; see `read_image`.

    Raises:
        UserError: it cannot be decoded; the message says why.
    """
    if not content or len(content) > MAX_BYTES:
        raise UserError(f'{name}: {"over 1 GiB" if content else "an empty file"}, no image')
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:
        image, large = None, 'MAX_IMAGE' in str(error)
        why = f'over {MAX_PIXELS // 10**6} megapixels' if large else 'damaged, or too large for the memory'
    else:
        why = 'damaged, or of a format that OpenCV does not read'
    if image is None:
        raise UserError(f'{name}: no image that can be decoded: {why}')
    return np.asarray(image, np.uint8)


def picture_name(path: Path) -> str:
    """Return the name for a picture of an image: its own where OpenCV writes that format well."""
    return path.name if path.suffix.lower() in ('.jpg', '.jpeg', '.png') else f'{path.name}.jpg'


def encode_image(image: Image, suffix: str) -> bytes:
    """Return an image as the content of a file of this suffix.

    Raises:
        UserError: the format does not hold it.
    """
    encoded, content = cv2.imencode(suffix.lower(), image)
    if not encoded:
        raise UserError(f'{image.shape[1]} x {image.shape[0]} px are too many for a {suffix} picture')
    return content.tobytes()


def write_file(path: Path, content: bytes) -> None:
    """Write a file, complete or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with atomic(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from None


def is_camera(source: str) -> bool:
    """Tell whether a source is the number of a camera, and no file or folder of that name."""
    return source.isdecimal() and not Path(source).exists()


class VideoReader:
    """The frames of a video file or a camera, in order, upright.

    Args:
        source: a file; or digits, the number of a camera, ``0`` for the first.

    Attributes:
        fps: frames a second; 25 where the source does not say.
        count: of the frames, as the file says; 0 where it does not, and of cameras.

    Raises:
        UserError: it is no video that OpenCV reads, or its frames are over 100 megapixels.
    """

    def __init__(self, source: str) -> None:
        self.is_camera = is_camera(source)
        if not self.is_camera:
            path = Path(source)
            if not path.is_file() or path.stat().st_size == 0:
                found = 'an empty file' if path.is_file() else 'a folder' if path.is_dir() else 'no file'
                raise UserError(f'{source}: a video is wanted, found {found}')
        # FFMPEG alone, as other readers take a name with % for a pattern.
        self._capture = (
            cv2.VideoCapture(int(source[:9])) if self.is_camera else cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        )
        if not self._capture.isOpened():
            what = 'no such camera' if self.is_camera else 'no video that OpenCV reads: damaged, or no video'
            raise UserError(f'{source}: {what}')
        width, height, fps, count = (
            self._capture.get(key)
            for key in (
                cv2.CAP_PROP_FRAME_WIDTH,
                cv2.CAP_PROP_FRAME_HEIGHT,
                cv2.CAP_PROP_FPS,
                cv2.CAP_PROP_FRAME_COUNT,
            )
        )
        if width * height > MAX_PIXELS:
            raise UserError(f'{source}: frames of over {MAX_PIXELS // 10**6} megapixels')
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else FPS
        self.count = int(count) if 0 < count < 2**31 else 0

    def __iter__(self) -> Iterator[Image]:
        try:
            while True:
                read, frame = self._capture.read()
                if not read:
                    return
                yield np.asarray(frame, np.uint8)
        finally:
            self._capture.release()


class VideoWriter:
    """An MP4 file that is there once the ``with`` block ends well, and nothing of it otherwise.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: Any = None
        self._size = (0, 0)
        self._closing = contextlib.ExitStack()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # OpenCV goes by the ending of the name, which a partial file's has not.
            folder = tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent)
        except OSError as error:
            raise UserError(f'{path}: cannot be written ({error.strerror})') from None
        self._partial = Path(self._closing.enter_context(folder)) / 'video.mp4'

    def write(self, frame: Image) -> None:
        """Add a frame; all are given the size of the first."""
        if self._writer is None:
            self._size = frame.shape[1], frame.shape[0]
            code = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG, code, self._fps, self._size)
            if not self._writer.isOpened():
                raise UserError(f'{self._path}: OpenCV cannot write a video of {self._size} pixels here')
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = np.asarray(cv2.resize(frame, self._size), np.uint8)
        self._writer.write(frame)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._closing:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._partial.replace(self._path)

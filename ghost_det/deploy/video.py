"""Videos and cameras, read and written."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ghost_det.errors import UserError
from ghost_det.utils.files import PARTIAL
from ghost_det.utils.images import MAX_PIXELS, Image

VIDEOS = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.ts', '.flv', '.ogv')
FPS = 25.0


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

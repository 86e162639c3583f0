"""Videos and cameras, read and written."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

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
    """The frames of a video file or a camera (``source`` is its number), in order, upright.

    ``fps`` is 25 and ``count``, of the frames, 0 where the source does not say.
    """

    def __init__(self, source: str) -> None:
        self.is_camera = is_camera(source)
        if self.is_camera:
            self._capture = cv2.VideoCapture(int(source[:9]))
        elif not Path(source).is_file():  # FFMPEG would wait for a pipe, or fetch a URL
            raise UserError(f'{source}: expected a video, got a folder, a pipe or nothing')
        else:  # only by FFMPEG, as other readers take a name with % for a pattern
            self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            what = 'no such camera' if self.is_camera else 'no video that OpenCV reads: damaged, or no video'
            raise UserError(f'{source}: {what}')
        width, height = self._get(cv2.CAP_PROP_FRAME_WIDTH), self._get(cv2.CAP_PROP_FRAME_HEIGHT)
        if width * height > MAX_PIXELS:
            raise UserError(f'{source}: frames of over {MAX_PIXELS // 10**6} megapixels')
        fps, count = self._get(cv2.CAP_PROP_FPS), self._get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps <= 1000 else FPS
        self.count = int(count) if 0 < count < 2**31 else 0

    def _get(self, key: int) -> float:
        return float(self._capture.get(key))

    def __iter__(self) -> Iterator[Image]:
        try:
            while True:
                read, frame = self._capture.read()
                if not read:
                    return
                yield np.asarray(frame, np.uint8)
        finally:
            self._capture.release()


@contextlib.contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[Image], None]]:
    """Yield a function that adds a frame to an MP4 file, which is complete or not there at the end.

    All frames are given the size of the first.
    """
    writers: list[cv2.VideoWriter] = []
    size = 0, 0

    def write(frame: Image) -> None:
        nonlocal size
        if not writers:
            size = frame.shape[1], frame.shape[0]
            code = cv2.VideoWriter.fourcc(*'mp4v')
            writers.append(cv2.VideoWriter(str(partial), cv2.CAP_FFMPEG, code, fps, size))
            if not writers[0].isOpened():
                raise UserError(f'{path}: OpenCV cannot write a video of {size[0]} x {size[1]} px here')
        if (frame.shape[1], frame.shape[0]) != size:
            frame = np.asarray(cv2.resize(frame, size), np.uint8)
        writers[0].write(frame)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # OpenCV goes by the ending of the name, which a partial file's has not.
        folder = tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from None
    with folder:
        partial = Path(folder.name, 'video.mp4')
        try:
            yield write
        finally:
            for writer in writers:
                writer.release()
        if writers:
            partial.replace(path)

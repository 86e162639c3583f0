"""Videos and cameras, read and written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ghost_det.errors import UserError
from ghost_det.utils.files import explain_os_error, write_or_fail
from ghost_det.utils.images import Image

PLAYLISTS = (b'#EXTM3U', b'ffconcat')  # in which FFMPEG would read other files
VIDEOS = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.ts', '.flv', '.ogv')


def is_camera(source: str) -> bool:
    """Return whether a source is the number of a camera, and no file or folder of that name."""
    return source.isdecimal() and not Path(source).exists()


class VideoReader:
    """The frames of a video file, or of the camera with the number ``source``, in order, upright.

    If they are not known, ``fps`` is 25 and ``count``, the number of frames, 0; some formats only estimate
    both. ``seconds`` is the time of the last frame that was read.
    """

    def __init__(self, source: str) -> None:
        self.is_camera, self._source = is_camera(source), source
        if self.is_camera:
            self._capture = cv2.VideoCapture(int(source[:9]))
        elif Path(source).is_file():  # only by FFMPEG, as other readers take a name with % for a pattern
            with explain_os_error(source, 'read'), Path(source).open('rb') as file:
                if file.read(8).startswith(PLAYLISTS):
                    raise UserError(f'{source}: a list of other files, not a video')
            self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        else:  # FFMPEG would wait for a pipe, or fetch a URL
            raise UserError(f'{source}: expected a video file')
        if not self._capture.isOpened():
            raise UserError(f'{source}: not a readable video, or no such camera')
        fps, count = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = float(fps) if 0 < fps <= 1000 else 25.0
        self.count = int(count) if 0 < count < 2**31 else 0
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Image]:
        read, frame = self._capture.read()
        if not read:
            raise UserError(f'{self._source}: contains no readable frame')
        while read:
            self.seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield np.asarray(frame, np.uint8)
            read, frame = self._capture.read()


@contextlib.contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[Image], None]]:
    """Yield a function that adds a frame, resized to the first, to an MP4 file: a complete one or none."""
    writer: cv2.VideoWriter | None = None
    size = 0, 0

    def write(frame: Image) -> None:
        nonlocal writer, size
        if writer is None:
            size = frame.shape[1], frame.shape[0]
            code = cv2.VideoWriter.fourcc(*'mp4v')
            writer = cv2.VideoWriter(str(partial), cv2.CAP_FFMPEG, code, fps, size)
            if not writer.isOpened():
                raise UserError(f'{path}: OpenCV cannot write a video of {size[0]} x {size[1]} px')
        if (frame.shape[1], frame.shape[0]) != size:
            frame = np.asarray(cv2.resize(frame, size), np.uint8)
        writer.write(frame)

    with write_or_fail(path) as partial:
        yield write
        if writer is None:
            raise UserError(f'{path}: there was no frame to write')
        writer.release()

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ghost_det.deploy.video import VideoReader, write_video
from ghost_det.errors import UserError


def grey_frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), 10 * index, np.uint8) for index in range(count)]


def test_a_video_keeps_frames_order_and_rate(tmp_path: Path) -> None:
    path = tmp_path / 'ü %d.mp4'
    with write_video(path, 12.5) as write:
        for frame in grey_frames(20):
            write(frame)
        write(grey_frames(20, 24, 32)[10])  # another size
    reader = VideoReader(str(path))
    assert (reader.fps, reader.count, reader.is_camera) == (12.5, 21, False)
    frames = list(reader)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    np.testing.assert_allclose([frame.mean() for frame in frames], [*range(0, 200, 10), 100], atol=4)


def test_after_an_error_nothing_is_left_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / 'a.mp4'
    path.write_text('an earlier one')
    with pytest.raises(ZeroDivisionError), write_video(path, 10) as write:
        write(grey_frames(1)[0])
        raise ZeroDivisionError
    assert path.read_text() == 'an earlier one'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    'name', ['nowhere.mp4', 'folder.mp4', 'pipe.mp4', 'empty.mp4', 'text.mp4', 'hls.mp4', 'list.mp4', '977']
)
def test_files_that_are_no_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty.mp4').touch()
    (tmp_path / 'text.mp4').write_text('no video')
    with write_video(tmp_path / 'other.mp4', 10) as write:
        write(grey_frames(1)[0])
    entry = f'#EXTINF:1,\nfile://{tmp_path}/other.mp4\n#EXT-X-ENDLIST'
    (tmp_path / 'hls.mp4').write_text(f'#EXTM3U \n#EXT-X-TARGETDURATION:1\n{entry}\n')
    (tmp_path / 'list.mp4').write_text('ffconcat version 1.0\nfile other.mp4\n')
    (tmp_path / 'folder.mp4').mkdir()
    os.mkfifo(tmp_path / 'pipe.mp4')
    lists = 'a list of other files' if name in ('hls.mp4', 'list.mp4') else ''
    with pytest.raises(UserError, match=f'^{name}: {lists}'):
        VideoReader(name)

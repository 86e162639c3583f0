from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.apis import inference_detector, init_detector

from ghost_det.deploy import Metadata, detect
from ghost_det.deploy.detect import detect_files, find_each
from ghost_det.deploy.detector import Detections, Detector
from ghost_det.deploy.video import VideoReader, write_video
from ghost_det.engine.inference import TorchDetector
from ghost_det.errors import UserError
from ghost_det.utils.images import read_image
from tests.conftest import ROOT, run_command
from tests.demo.torch_files import save_torch
from tests.export.exported import METADATA, save
from tests.utils.test_images import huge

from .test_detector import box, bright


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, images good and bad in depth, and a video."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / 'm.onnx', Metadata(**METADATA))
    for number, name in enumerate(['a.png', 'b ü/c d.jpg', 'b ü/e.bmp', 'z.png']):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, bright(number))[1].tobytes())
    (tmp_path / 'images/d.jpg').write_text('no image')
    with write_video(tmp_path / 'clip.avi.mp4', 8) as write:
        for number in range(12):
            write(bright(number))
    return tmp_path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def detect_by(model: str, sources: list[str], out: Path, score: float = 0.3, **options: Any) -> int:
    return detect_files(Detector(model, score_threshold=score), model, sources, out, **options)


def test_images_and_videos_become_pictures_videos_and_json(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / 'b.mp4').write_text('no video')
    cv2.imwrite('images/wide.bmp', np.zeros((4, 66_000, 3), np.uint8))
    sources = ['images', 'b.mp4', 'clip.avi.mp4']
    assert detect_by('m.onnx', sources, work / 'out', batch=3, json_file=True) == 3
    made = sorted(path.relative_to(work / 'out').as_posix() for path in (work / 'out').rglob('*.*'))
    assert made == ['a.png', 'b ü/c d.jpg', 'b ü/e.bmp.jpg', 'clip.avi.mp4', 'detections.json', 'z.png']
    found = read(work / 'out/detections.json')
    names = [image['file_name'] for image in found['images']]
    assert names == ['a.png', 'b ü/c d.jpg', 'b ü/e.bmp', 'wide.bmp', 'z.png', *['clip.avi.mp4'] * 12]
    assert [image.get('frame') for image in found['images'][4:]] == [None, *range(12)]
    assert found['categories'] == [{'id': 1, 'name': 'bright'}, {'id': 2, 'name': 'dim'}]
    assert {error['file_name'] for error in found['errors']} == {'d.jpg', 'wide.bmp', 'b.mp4'}
    assert [result['image_id'] for result in found['results']] == [1, 2, 3, *range(5, 18)]
    for result, number in zip(found['results'], [0, 1, 2, 3, *range(12)]):
        x1, y1, x2, y2 = box(number)
        np.testing.assert_allclose(result['bbox'], [x1, y1, x2 - x1, y2 - y1], atol=2)
        assert result['category_id'] == 1
    assert (read_image(work / 'out/a.png') != read_image(work / 'images/a.png')).any()
    video = VideoReader(str(work / 'out/clip.avi.mp4'))
    assert (video.fps, len(list(video))) == (8, 12)
    said = capsys.readouterr()
    assert said.out.startswith('17 images in ') and '16 objects; 3 failed' in said.out
    assert all(f'{name}: ' in said.err for name in ('d.jpg', 'wide.bmp', 'b.mp4'))


def test_a_video_that_ends_early_is_an_error(work: Path) -> None:
    writer = cv2.VideoWriter('cut.avi', cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*'MJPG'), 8, (64, 64))
    for number in range(40):
        writer.write(np.ascontiguousarray(cv2.resize(bright(number % 4), (64, 64))))
    writer.release()
    content = (work / 'cut.avi').read_bytes()
    (work / 'cut.avi').write_bytes(content[: len(content) // 2])
    assert detect_by('m.onnx', ['cut.avi'], work / 'out', json_file=True) == 1
    found = read(work / 'out/detections.json')
    assert 10 < len(found['images']) < 30 and 'of about 40 frames' in found['errors'][0]['error']


def test_pictures_of_an_earlier_run_are_no_images_and_json_is_enough(work: Path) -> None:
    for _ in range(2):
        detect_by('m.onnx', ['images'], work / 'images/found', json_file=True)
    assert len(read(work / 'images/found/detections.json')['images']) == 4
    (work / 'images').rename(work / '2024')  # not a camera
    detect_by('m.onnx', ['2024', 'clip.avi.mp4'], work / 'out', score=0.1, json_file=True, pictures=False)
    assert [path.name for path in (work / 'out').iterdir()] == ['detections.json']
    assert len(read(work / 'out/detections.json')['results']) >= 32


def test_no_input_is_replaced_and_no_two_share_a_picture(work: Path) -> None:
    (work / 'clip.avi').write_bytes(b'')
    for name in ('x.bmp', 'x.bmp.jpg'):
        cv2.imwrite(str(work / 'images' / name), bright())
    before = {path: path.read_bytes() for path in work.rglob('*') if path.is_file()}
    for sources, out in (
        (['images/a.png'], work / 'images'),
        (['clip.avi.mp4'], work),
        (['clip.avi', 'clip.avi.mp4'], work / 'out'),
        (['images'], work / 'out'),
    ):
        with pytest.raises(UserError, match='would replace'):
            detect_by('m.onnx', sources, out)
    assert {path: path.read_bytes() for path in before} == before
    assert not (work / 'out').exists()


def test_a_camera_runs_until_it_is_interrupted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        is_camera, fps, count = True, 5.0, 0

        def __init__(self, source: str) -> None:
            assert source == '0'

        def __iter__(self) -> Any:
            yield from (bright(number) for number in range(30))
            raise KeyboardInterrupt

    monkeypatch.setattr(detect, 'VideoReader', Camera)
    assert detect_by('m.onnx', ['0'], work / 'out', json_file=True) == 0
    shown = len(read(work / 'out/detections.json')['images'])
    assert 0 < shown <= 30
    assert len(list(VideoReader(str(work / 'out/camera-0.mp4')))) == shown


def test_the_tool_needs_no_torch(work: Path) -> None:
    huge(work / 'images/huge.png', 11_000, 10_000)
    block = work / 'block'
    block.mkdir()
    names = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet')
    (block / 'sitecustomize.py').write_text(f'import sys\nsys.modules.update(dict.fromkeys({names}))\n')
    words = 'm.onnx images clip.avi.mp4 -o out --json --threads 1 --tile 100'.split()
    done = subprocess.run(
        [sys.executable, '-m', 'ghost_det_main', 'detect', *words],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(block), str(ROOT)]), 'OMP_NUM_THREADS': '1'},
        cwd=work,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith('16 images in ')
    errors = done.stderr.splitlines()
    assert len(errors) == 2 and 'huge.png: ' in errors[1]
    assert len(read(work / 'out/detections.json')['results']) == 16


@pytest.mark.parametrize(
    ('words', 'name'),
    [
        ('nowhere.onnx images -o out', 'nowhere.onnx'),
        ('m.onnx nowhere -o out', 'nowhere'),
        ('m.onnx images -o m.onnx', '-o m.onnx'),
        ('m.onnx images -o out --no-pictures', '--no-pictures'),
        ('m.onnx images -o out --overlap 0.3', '--overlap'),
        ('m.onnx images -o out --tile 9', 'tile'),
        ('m.onnx images -o taken --json', '--json taken/detections.json'),
    ],
)
def test_user_errors_are_one_message(
    words: str, name: str, work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Not in a fork, where the engines of the tests before it hang.
    monkeypatch.setattr(sys, 'argv', sys.argv)
    (work / 'taken/detections.json').mkdir(parents=True)
    assert run_command(['detect', *words.split()]) == 2
    said = capfd.readouterr().err
    assert name in said and 'Traceback' not in said
    assert not (work / 'out').exists() and len(list((work / 'taken').iterdir())) == 1


def test_a_checkpoint_finds_what_mmdet_finds_and_goes_on_after_a_thin_image(work: Path) -> None:
    config, checkpoint = map(str, save_torch(work))
    cv2.imwrite('images/thin.png', np.full((2, 3000, 3), 90, np.uint8))
    detector = TorchDetector(config, checkpoint, score_threshold=0.4)
    sources = ['images/a.png', 'images/thin.png', 'images/z.png']
    assert detect_files(detector, 'c.py', sources, work / 'out', batch=2, json_file=True) == 1
    found = read(work / 'out/detections.json')
    assert [image['file_name'] for image in found['images']] == ['a.png', 'z.png']
    (error,) = found['errors']
    assert error['file_name'] == 'thin.png' and '3000 x 2 px' in error['error']
    theirs = inference_detector(init_detector(config, checkpoint, device='cpu'), bright(3)).pred_instances
    scores = theirs.scores[theirs.scores >= 0.4]
    assert len(scores)
    ours = [result['score'] for result in found['results'] if result['image_id'] == 2]
    np.testing.assert_allclose(ours, scores.numpy(), rtol=1e-4)


def picky(images: Any, batch: int = 1, least: int = 3) -> Any:
    """Detect, but fail over a whole batch where an image of it is thin."""
    source = iter(images)
    while group := list(islice(source, batch)):
        if any(len(image) < least for image in group):
            raise cv2.error('too thin')
        for image in group:
            score = np.array([len(image) / 100], np.float32)
            yield Detections(np.zeros((1, 4), np.float32), score, np.array([0]))


PICKY: Any = SimpleNamespace(stream=picky)
BROKEN: Any = SimpleNamespace(stream=partial(picky, least=9999))


def of_heights(*heights: int) -> list[tuple[int, Any]]:
    unreadable = UserError('unreadable')
    return [(height, np.zeros((height, 20, 3), np.uint8) if height else unreadable) for height in heights]


@pytest.mark.parametrize('batch', [1, 3, 20])
def test_images_that_cannot_be_read_or_run_are_errors_and_every_other_is_kept_in_order(batch: int) -> None:
    heights = [0, 2, 10, 11, 0, 1, 12, 13, 14, 2, 2, 15, 1, 16, 0]
    names, _, found = zip(*find_each(PICKY, of_heights(*heights), batch))
    assert list(names) == heights
    scores = [None if isinstance(each, UserError) else round(100 * each.scores[0]) for each in found]
    assert scores == [height if height > 2 else None for height in heights]
    assert str(found[1]) == '2: the detector cannot run on 20 x 2 px: error: too thin'


def test_what_fails_on_every_image_or_in_the_source_stops() -> None:
    with pytest.raises(cv2.error):
        list(find_each(BROKEN, of_heights(10, 0, 11), 2))

    def source() -> Any:
        yield from of_heights(10, 0)
        raise MemoryError('no memory')

    with pytest.raises(MemoryError):
        list(find_each(PICKY, source(), 4))

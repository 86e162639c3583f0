from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
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
    failed = detect_by('m.onnx', ['images', 'clip.avi.mp4'], work / 'out', batch=3, json_file=True)
    assert failed == 1
    made = sorted(path.relative_to(work / 'out').as_posix() for path in (work / 'out').rglob('*.*'))
    assert made == ['a.png', 'b ü/c d.jpg', 'b ü/e.bmp.jpg', 'clip.avi.mp4', 'detections.json', 'z.png']
    found = read(work / 'out/detections.json')
    names = [image['file_name'] for image in found['images']]
    assert names == ['a.png', 'b ü/c d.jpg', 'b ü/e.bmp', 'z.png', *['clip.avi.mp4'] * 12]
    assert [image.get('frame') for image in found['images'][3:]] == [None, *range(12)]
    assert found['categories'] == [{'id': 1, 'name': 'bright'}, {'id': 2, 'name': 'dim'}]
    assert [error['file_name'] for error in found['errors']] == ['d.jpg']
    assert [result['image_id'] for result in found['results']] == list(range(1, 17))
    for result, number in zip(found['results'], [0, 1, 2, 3, *range(12)]):
        x1, y1, x2, y2 = box(number)
        np.testing.assert_allclose(result['bbox'], [x1, y1, x2 - x1, y2 - y1], atol=2)
        assert result['category_id'] == 1
    assert (read_image(work / 'out/a.png') != read_image(work / 'images/a.png')).any()
    video = VideoReader(str(work / 'out/clip.avi.mp4'))
    assert (video.fps, len(list(video))) == (8, 12)
    said = capsys.readouterr()
    assert said.out.startswith('16 images in ')
    assert 'images/s' in said.out
    assert '16 objects; 1 failed' in said.out
    assert 'd.jpg: no image that can be decoded' in said.err


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


def test_videos_that_cannot_be_read_are_reported(work: Path) -> None:
    (work / 'b.mp4').write_text('no video')
    assert detect_by('m.onnx', ['b.mp4', 'clip.avi.mp4'], work / 'out', json_file=True) == 1
    found = read(work / 'out/detections.json')
    assert [error['file_name'] for error in found['errors']] == ['b.mp4']
    assert len(found['images']) == 12
    assert not (work / 'out/b.mp4').exists()


def test_a_camera_goes_on_until_it_is_interrupted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    words = 'm.onnx images clip.avi.mp4 -o out --json --threads 1'.split()
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
        ('m.onnx images -o out --score 7', "'7'"),
        ('c.py images -o out', 'c.py'),
    ],
)
def test_user_errors_are_one_message(
    words: str, name: str, work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Not in a fork, where the engines of the tests before it hang.
    monkeypatch.setattr(sys, 'argv', sys.argv)
    assert run_command(['detect', *words.split()]) == 2
    said = capfd.readouterr().err
    assert name in said and 'Traceback' not in said
    assert not (work / 'out').exists()


def test_a_folder_in_the_place_of_the_json_is_reported_before_the_work(work: Path) -> None:
    (work / 'out/detections.json').mkdir(parents=True)
    with pytest.raises(UserError, match='--json out/detections.json: '):
        detect_by('m.onnx', ['images'], Path('out'), json_file=True)
    assert [path.name for path in (work / 'out').iterdir()] == ['detections.json']


def test_a_checkpoint_finds_what_mmdet_finds(work: Path) -> None:
    config = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'
    options = {'model.bbox_head.num_classes': 3, 'model.backbone.init_cfg': None}
    with pytest.warns(UserWarning, match='checkpoint is None'):
        model = init_detector(str(config), None, 'coco', 'cpu', options)
    for parameter in model.bbox_head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    meta = {'dataset_meta': {'classes': ('a', 'b', 'c')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, work / 'c.pth')
    sources = ['images/a.png', 'images/z.png']
    detector = TorchDetector(str(config), 'c.pth', score_threshold=0.4)
    assert detect_files(detector, 'c.py', sources, work / 'out', batch=2, json_file=True) == 0
    found = read(work / 'out/detections.json')
    assert [category['name'] for category in found['categories']] == ['a', 'b', 'c']
    theirs = inference_detector(model, read_image(work / 'images/z.png')).pred_instances
    scores = theirs.scores[theirs.scores >= 0.4]
    assert len(scores)
    ours = [result['score'] for result in found['results'] if result['image_id'] == 2]
    np.testing.assert_allclose(ours, scores.numpy(), rtol=1e-4)


class Picky:
    """Fails over a whole batch where an image of it is thin, and where ``broken`` over every image."""

    classes = ('thing',)

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def stream(self, images: Any, batch: int = 1) -> Any:
        source = iter(images)
        while group := list(islice(source, batch)):
            if self.broken or any(len(image) < 3 for image in group):
                raise cv2.error('too thin')
            for image in group:
                yield Detections(
                    np.zeros((1, 4), np.float32), np.array([len(image) / 100], np.float32), np.array([0])
                )


def of_height(height: int) -> Any:
    return np.zeros((height, 20, 3), np.uint8)


@pytest.mark.parametrize('batch', [1, 3, 20])
def test_an_image_that_stops_the_network_is_an_error_and_every_other_one_kept_in_order(batch: int) -> None:
    heights = [2, 10, 11, 1, 12, 13, 14, 2, 2, 15, 1]
    names, images, found = zip(*find_each(Picky(), [(each, of_height(each)) for each in heights], batch))
    assert list(names) == [len(image) for image in images] == heights
    assert [None if isinstance(each, UserError) else round(100 * each.scores[0]) for each in found] == [
        height if height > 2 else None for height in heights
    ]
    assert str(found[0]) == '2: the detector cannot run on 20 x 2 px: error: too thin'


def test_a_detector_that_fails_on_every_image_stops() -> None:
    with pytest.raises(cv2.error):
        list(find_each(Picky(broken=True), enumerate(map(of_height, [10, 11])), 2))


def test_a_source_that_fails_loses_no_image_silently() -> None:
    def source() -> Any:
        yield 0, of_height(10)
        raise MemoryError('no memory')

    with pytest.raises(MemoryError):
        list(find_each(Picky(), source(), 4))


def test_a_thin_image_does_not_stop_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config, checkpoint = save_torch(tmp_path)
    folder, out = tmp_path / 'images', tmp_path / 'out'
    folder.mkdir()
    for name, size in {'a.png': (90, 120), 'thin.png': (2, 3000), 'z.png': (120, 90)}.items():
        cv2.imwrite(str(folder / name), np.full((*size, 3), 90, np.uint8))
    detector = TorchDetector(str(config), str(checkpoint), score_threshold=0.3)
    assert detect_files(detector, 'c.py', [str(folder)], out, batch=2, json_file=True) == 1
    found = read(out / 'detections.json')
    assert [image['file_name'] for image in found['images']] == ['a.png', 'z.png']
    (error,) = found['errors']
    assert error['file_name'] == 'thin.png' and '3000 x 2 px' in error['error']
    assert sorted(path.name for path in out.glob('*.png')) == ['a.png', 'z.png']


def test_a_picture_that_its_format_cannot_hold_stops_no_other(work: Path) -> None:
    cv2.imwrite('images/wide.bmp', np.zeros((4, 66_000, 3), np.uint8))
    assert detect_by('m.onnx', ['images'], work / 'out', json_file=True) == 2
    found = read(work / 'out/detections.json')
    assert len(found['images']) == 5
    assert 'images/wide.bmp: 66000 x 4 px are too many for a .jpg picture' in found['errors'][-1]['error']

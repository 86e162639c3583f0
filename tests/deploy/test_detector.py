from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghost_det.deploy import Detector, Metadata, backends
from ghost_det.errors import UserError
from tests.export.exported import METADATA, save

FORMATS = ('onnx', 'xml')


def bright(number: int = 0, height: int = 128, width: int = 128) -> np.ndarray:
    """An image with one bright box, whose place tells its number."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[20:60, 2 * number + 4 : 2 * number + 24] = 255
    return image


def box(number: int) -> list[float]:
    return [2 * number + 4, 20, 2 * number + 24, 60]


@pytest.fixture(scope='module', params=FORMATS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('models ü')
    return save(folder / f'bright.{request.param}', Metadata(**METADATA))


@pytest.fixture(scope='module')
def detector(model: Path) -> Detector:
    return Detector(model)


def test_boxes_are_in_pixels_of_the_image(detector: Detector) -> None:
    found = detector(bright())
    np.testing.assert_allclose(found.boxes, [box(0), box(0)], atol=0.01)
    np.testing.assert_allclose(found.scores, [0.9, 0.2])
    assert found.labels.tolist() == [0, 1] and len(found) == 2
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == ('float32', 'float32', 'int64')
    assert detector.classes == ('bright', 'dim')
    assert detector.metadata == Metadata(**METADATA)
    first, second = found.to_coco(7, [10, 20])
    assert first == {'image_id': 7, 'category_id': 10, 'score': pytest.approx(0.9), 'bbox': [4, 20, 20, 40]}
    assert second['category_id'] == 20 and type(first['score']) is float
    nothing = detector(np.zeros((50, 80, 3), np.uint8))
    assert nothing.boxes.shape == (0, 4) and nothing.to_coco(1, [1, 2]) == []


@pytest.mark.parametrize('batch', [1, 3])
def test_a_stream_is_complete_and_in_order(detector: Detector, batch: int) -> None:
    images = [*map(bright, [*range(20), 3, 3, 0]), bright(3, 100, 90), np.zeros((9, 7, 3), np.uint8)]
    for image, found in zip(images, detector.stream(iter(images), batch=batch), strict=True):
        np.testing.assert_array_equal(found.boxes, detector(image).boxes)
        np.testing.assert_array_equal(found.scores, detector(image).scores)
    assert list(detector.stream([])) == []


def test_a_stream_takes_few_images_ahead_and_raises_their_error(model: Path) -> None:
    taken = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken
        for taken in range(1, 100):  # noqa: B007
            yield bright()
        raise OSError('the camera was unplugged')

    stream = Detector(model, threads=1).stream(frames())
    for count in range(1, 6):
        next(stream)
        assert taken <= count + 2 * 2
    with pytest.raises(OSError, match='unplugged'):
        list(stream)


def test_the_score_threshold_and_wrong_arguments(model: Path) -> None:
    for score, count in ((0.5, 1), (1.0, 0), (None, 2)):
        assert len(Detector(model, score_threshold=score)(bright())) == count
    with pytest.raises(UserError, match='score_threshold'):
        Detector(model, score_threshold=1.5)
    with pytest.raises(UserError, match='batch'):
        Detector(model).stream([bright()], batch=0)


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_dynamic_canvas(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f'dynamic.{suffix}', Metadata(**METADATA | {'dynamic': True, 'width': 128}))
    detector = Detector(path)
    for height, width in ((64, 128), (128, 64), (100, 100), (128, 64)):
        np.testing.assert_allclose(detector(bright(2, height, width)).boxes[0], box(2), atol=1.6)
    images = [bright(number, 64 + number, 128 - number) for number in range(7)]
    for number, each in enumerate(detector.stream(images, batch=3)):
        np.testing.assert_allclose(each.boxes[0], box(number), atol=1.6)


def test_an_engine_that_is_not_installed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, 'find_spec', lambda name: None)
    package = {'.onnx': 'onnxruntime', '.xml': 'openvino'}[model.suffix]
    with pytest.raises(UserError, match=rf'{package}.*pip install "ghost-det\[runtime\]"'):
        Detector(model)


def test_other_arrays_are_refused(detector: Detector) -> None:
    wrong: list[Any] = ['a.jpg', *(np.zeros((5, 5, *more), np.uint8) for more in ([], [4]))]
    for image in (*wrong, np.zeros((5, 5, 3), np.float32)):
        with pytest.raises(UserError, match='expected an image, uint8'):
            list(detector.stream([bright(), image]))


@pytest.mark.parametrize('suffix', FORMATS)
def test_damaged_files_are_refused_by_name(suffix: str, tmp_path: Path) -> None:
    bare = save(tmp_path / f'bare.{suffix}')
    with pytest.raises(UserError, match=f'bare.{suffix}: has no valid ghost_det metadata of format 2'):
        Detector(bare)
    path = save(tmp_path / f'm.{suffix}', Metadata(**METADATA))
    for file in {path, path.with_suffix('.bin' if suffix == 'xml' else '.onnx')}:
        content = file.read_bytes()
        for share in (0, 0.02, 0.5, 0.95):
            file.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(UserError, match=f'm.{suffix}: '):
                Detector(path)
        file.write_bytes(content)
    file.unlink()
    with pytest.raises(UserError, match=f'{file.name}: '):
        Detector(path)


def test_a_graph_of_another_size_than_its_metadata(tmp_path: Path) -> None:
    path = save(tmp_path / 'm.onnx', text=Metadata(**METADATA | {'height': 96}).to_json())
    with pytest.raises(UserError, match='m.onnx: cannot be run: '):
        Detector(path)(bright())


@pytest.mark.parametrize('name', ['nowhere.onnx', 'folder.xml', 'model.pth', 'text.onnx', 'text.xml'])
def test_files_that_are_no_detectors(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'folder.xml').mkdir()
    for text in ('model.pth', 'text.onnx', 'text.xml', 'text.bin'):
        (tmp_path / text).write_text('no detector')
    with pytest.raises(UserError, match=f'{Path(name).stem}.*: '):
        Detector(tmp_path / name)
    assert capfd.readouterr() == ('', '')  # OpenVINO prints nothing of its own

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
    assert len(found) == 2
    np.testing.assert_allclose(found.boxes, [box(0), box(0)], atol=0.01)
    np.testing.assert_allclose(found.scores, [0.9, 0.2])
    assert found.labels.tolist() == [0, 1]
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == ('float32', 'float32', 'int64')
    assert detector.classes == ('bright', 'dim')
    assert detector.metadata == Metadata(**METADATA)


def test_nothing_found(detector: Detector) -> None:
    found = detector(np.zeros((50, 80, 3), np.uint8))
    assert found.boxes.shape == (0, 4)
    assert found.to_coco(1, [1, 2]) == []


@pytest.mark.parametrize('batch', [1, 3, 8])
def test_a_stream_is_complete_and_in_order(detector: Detector, batch: int) -> None:
    numbers = [*range(50), 3, 3, 0]
    found = list(detector.stream((bright(number) for number in numbers), batch=batch))
    assert len(found) == len(numbers)
    for number, each in zip(numbers, found):
        np.testing.assert_allclose(each.boxes[0], box(number), atol=0.01)


def test_a_list_gives_a_list_as_its_images_one_by_one(detector: Detector) -> None:
    images = [bright(3, 100, 90), bright(1, 64, 64), np.zeros((9, 7, 3), np.uint8)]
    for together, image in zip(detector(images), images, strict=True):
        alone = detector(image)
        np.testing.assert_array_equal(together.boxes, alone.boxes)
        np.testing.assert_array_equal(together.scores, alone.scores)
    assert detector([]) == []


def test_a_stream_takes_few_images_ahead_and_may_be_left(model: Path) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield bright()

    stream = Detector(model, streams=2).stream(endless())
    for count in range(1, 6):
        next(stream)
        assert taken <= count + 2 * 2
    del stream


def test_an_error_of_the_images_reaches_the_caller(detector: Detector) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield bright(1)
        raise OSError('the camera was unplugged')

    with pytest.raises(OSError, match='unplugged'):
        list(detector.stream(failing()))


def test_the_score_threshold(model: Path) -> None:
    assert len(Detector(model, score_threshold=0.5)(bright())) == 1
    assert len(Detector(model, score_threshold=0.0)(bright())) == 2
    with pytest.raises(UserError, match='score_threshold: expected a number from 0 to 1, got 1.5'):
        Detector(model, score_threshold=1.5)


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_dynamic_canvas(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f'dynamic.{suffix}', Metadata(**METADATA | {'dynamic': True, 'width': 128}))
    detector = Detector(path)
    for height, width in ((64, 128), (128, 64), (100, 100), (128, 64)):
        found = detector(bright(2, height, width))
        np.testing.assert_allclose(found.boxes[0], box(2), atol=1.6)
    images = [bright(number, 64 + number, 128 - number) for number in range(7)]
    for number, each in enumerate(detector.stream(images, batch=3)):
        np.testing.assert_allclose(each.boxes[0], box(number), atol=1.6)


def test_coco_results(detector: Detector) -> None:
    first, second = detector(bright()).to_coco(7, [10, 20])
    assert first == {'image_id': 7, 'category_id': 10, 'score': pytest.approx(0.9), 'bbox': [4, 20, 20, 40]}
    assert second['category_id'] == 20
    assert type(first['score']) is float


def test_onnx_is_run_by_openvino_where_only_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / 'bright.onnx', Metadata(**METADATA))
    monkeypatch.setattr(backends, 'find_spec', lambda name: name == 'openvino' or None)
    monkeypatch.setattr(backends, 'OnnxModel', None)
    np.testing.assert_allclose(Detector(path)(bright(5)).boxes[0], box(5), atol=0.01)


@pytest.mark.parametrize(('suffix', 'package'), [('onnx', 'onnxruntime'), ('xml', 'openvino')])
def test_an_engine_that_is_not_installed(
    suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / f'bright.{suffix}', Metadata(**METADATA))
    monkeypatch.setattr(backends, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=rf'needs {package}, .*pip install "ghost-det\[runtime\]"'):
        Detector(path)


@pytest.mark.parametrize(
    'image',
    [
        None,
        'a.jpg',
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_what_is_no_image(image: Any, detector: Detector) -> None:
    with pytest.raises(UserError, match='expected an image, uint8'):
        detector([bright(), image])


@pytest.mark.parametrize('option', [{'threads': 0}, {'streams': -1}])
def test_numbers_out_of_range(option: dict[str, int], model: Path) -> None:
    with pytest.raises(UserError, match='expected a number from 1 up'):
        Detector(model, **option)


def test_an_unknown_device(model: Path) -> None:
    with pytest.raises(UserError, match='device NPU9: '):
        Detector(model, device='NPU9')


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_graph_without_metadata(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f'bare.{suffix}')
    with pytest.raises(UserError, match=r'bare\.\w+: was not exported by ghost-det export'):
        Detector(path)


def test_a_graph_of_another_size_than_its_metadata_says(tmp_path: Path) -> None:
    path = save(tmp_path / 'm.onnx', text=Metadata(**METADATA | {'height': 96}).to_json())
    with pytest.raises(UserError, match=rf'{path.name}: cannot be run: .*; export it again'):
        Detector(path)(bright())


@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize('share', [0.02, 0.5, 0.95])
def test_files_that_were_cut(suffix: str, share: float, tmp_path: Path) -> None:
    path = save(tmp_path / f'm.{suffix}', Metadata(**METADATA))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=f'{path.name}: '):
        Detector(path)


def test_weights_that_are_missing_or_cut(tmp_path: Path) -> None:
    path = save(tmp_path / 'm.xml', Metadata(**METADATA))
    weights = path.with_suffix('.bin')
    weights.write_bytes(weights.read_bytes()[:10])
    with pytest.raises(UserError, match='m.xml: cannot be run: '):
        Detector(path)
    weights.write_bytes(b'')
    with pytest.raises(
        UserError, match='m.bin: expected .*, of which m.xml is the other half, got an empty file'
    ):
        Detector(path)
    weights.unlink()
    with pytest.raises(UserError, match='m.bin: expected .*, of which m.xml is the other half, got nothing'):
        Detector(path)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('nowhere.onnx', 'expected a file of ghost-det export, got nothing'),
        ('folder.xml', 'expected a file of ghost-det export, got a folder'),
        ('empty.onnx', 'expected a file of ghost-det export, got an empty file'),
        ('model.pth', 'expected an exported detector, NAME.onnx or NAME.xml'),
        ('text.onnx', 'cannot be run: '),
        ('text.xml', 'cannot be run: not in the format of OpenVINO; export it again'),
    ],
)
def test_files_that_are_no_detectors(
    name: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'folder.xml').mkdir()
    (tmp_path / 'empty.onnx').touch()
    for text in ('model.pth', 'text.onnx', 'text.xml', 'text.bin'):
        (tmp_path / text).write_text('no detector')
    with pytest.raises(UserError, match=f'{name}: {message}'):
        Detector(tmp_path / name)
    assert capfd.readouterr() == ('', '')  # of what OpenVINO itself prints

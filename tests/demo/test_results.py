from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ghost_det.demo.results import (
    SHOWN,
    ImageResult,
    Model,
    detect,
    draw_boxes,
    read_upload,
    to_html,
    to_json,
)
from ghost_det.deploy import Detector, Metadata
from ghost_det.errors import UserError
from tests.deploy.test_detector import box, bright
from tests.export.exported import METADATA, save


def write(path: Path, pixels: np.ndarray[Any, Any], **options: Any) -> Path:
    Image.fromarray(pixels[..., ::-1]).save(path, **options)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('models')
    for name in ('a.onnx', 'b.xml'):
        save(folder / name, Metadata(**{**METADATA, 'classes': ('<script>', 'dim')}))
    return folder


def run(path: Path, folder: Path, before: ImageResult | None = None, name: str = 'a.onnx') -> ImageResult:
    return detect(path, name, Model(Detector(folder / name)), before)


def test_views_follow_the_score(folder: Path, tmp_path: Path) -> None:
    result = run(write(tmp_path / 'x.png', bright(3)), folder)
    for least, count in ((0.1, 2), (0.2, 2), (0.5, 1), (0.95, 0)):
        content = to_json(result, least)
        assert len(content['results']) == count
        assert f'<b>{count}</b> of 2 boxes' in to_html(result, least)
    assert content['images'] == [{'id': 1, 'file_name': 'x.png', 'height': 128, 'width': 128}]
    assert '1 &lt;script&gt;' in to_html(result, 0.5) and '<script>' not in to_html(result, 0.5)
    (found,) = to_json(result, 0.5)['results']
    x1, y1, x2, y2 = box(3)
    np.testing.assert_allclose(found['bbox'], [x1, y1, x2 - x1, y2 - y1], atol=0.01)
    drawn = draw_boxes(result, 0.5)
    np.testing.assert_array_equal(drawn[100:], draw_boxes(result, 0.95)[100:])
    assert (drawn != draw_boxes(result, 0.95)).any()


def test_a_large_image_is_shrunk_and_its_boxes_are_in_its_own_pixels(folder: Path, tmp_path: Path) -> None:
    image = np.zeros((1000, 2 * SHOWN, 3), np.uint8)
    image[200:600, 400:800] = 255
    result = run(write(tmp_path / 'x.png', image), folder)
    assert result.picture.shape == (500, SHOWN, 3)
    np.testing.assert_allclose(result.found.boxes[0], [400, 200, 800, 600], atol=60)
    plain, drawn = result.picture[..., ::-1], draw_boxes(result, 0.5)
    changed = np.flatnonzero((plain != drawn).any(axis=(0, 2)))
    assert 150 < changed.min() < 220 and 380 < changed.max() < 500


def test_times_of_models_are_compared_on_one_image(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / 'x.png', bright())
    result = run(path, folder, run(path, folder), 'b.xml')
    assert list(result.times) == ['a.onnx', 'b.xml']
    assert min(result.times.values()) > 0 and '<li>b.xml: ' in to_html(result, 0.5)
    assert list(run(write(tmp_path / 'y.png', bright()), folder, result).times) == ['a.onnx']


def test_only_uploaded_images_are_read(tmp_path: Path) -> None:
    (tmp_path / 'text.jpg').write_text('no image')
    for path, message in (
        (tmp_path / 'text.jpg', 'text.jpg: no image'),
        (tmp_path / 'gone.png', 'gone.png: the upload has expired'),
        (Path('/etc/passwd'), 'not an upload'),
    ):
        with pytest.raises(UserError, match=message):
            read_upload(path)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ghost_det.demo.results import SHOWN, Seen, as_json, look, open_models, picture, read_upload, summary
from ghost_det.deploy import Metadata
from ghost_det.errors import UserError
from tests.deploy.test_detector import box, bright
from tests.deploy.test_video import huge, rotated
from tests.export.exported import METADATA, save


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels[..., ::-1]).save(path, **options)
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('models')
    for name in ('a.onnx', 'b.xml'):
        save(folder / name, Metadata(**METADATA))
    return folder


def see(path: Path, folder: Path, before: Seen | None = None, name: str = 'a.onnx') -> Seen:
    return look(path, name, open_models([str(folder / name)])[name], before)


def test_what_is_shown_follows_the_score(folder: Path, tmp_path: Path) -> None:
    seen = see(write(tmp_path / 'x.png', bright(3)), folder)
    for least, count in ((0.1, 2), (0.2, 2), (0.5, 1), (0.95, 0)):
        content = json.loads(as_json(seen, least))
        assert len(content['results']) == count
        assert f'<b>{count}</b> of 2 boxes' in summary(seen, least)
    assert content['images'] == [{'id': 1, 'file_name': 'x.png', 'height': 128, 'width': 128}]
    (found,) = json.loads(as_json(seen, 0.5))['results']
    x1, y1, x2, y2 = box(3)
    np.testing.assert_allclose(found['bbox'], [x1, y1, x2 - x1, y2 - y1], atol=0.01)
    drawn = picture(seen, 0.5)
    np.testing.assert_array_equal(drawn[100:], picture(seen, 0.95)[100:])
    assert (drawn != picture(seen, 0.95)).any()


def test_a_large_image_is_kept_small_and_its_boxes_are_of_the_original(folder: Path, tmp_path: Path) -> None:
    image = np.zeros((1000, 2 * SHOWN, 3), np.uint8)
    image[200:600, 400:800] = 255
    seen = see(write(tmp_path / 'x.png', image), folder)
    assert seen.picture.shape == (500, SHOWN, 3)
    np.testing.assert_allclose(seen.found.boxes[0], [400, 200, 800, 600], atol=60)
    plain, drawn = seen.picture[..., ::-1], picture(seen, 0.5)
    changed = np.flatnonzero((plain != drawn).any(axis=(0, 2)))
    assert 150 < changed.min() < 220 and 380 < changed.max() < 450


def test_times_of_models_are_compared_on_one_image(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / 'x.png', bright())
    seen = see(path, folder, see(path, folder), 'b.xml')
    assert list(seen.times) == ['a.onnx', 'b.xml']
    assert set(seen.times['b.xml']) == {'prepare', 'network', 'boxes'}
    assert min(seen.times['b.xml'].values()) > 0
    assert '<td>b.xml</td>' in summary(seen, 0.5)
    assert list(see(write(tmp_path / 'y.png', bright()), folder, seen).times) == ['a.onnx']


def test_names_are_no_markup(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / 'm.onnx', Metadata(**{**METADATA, 'classes': ('<script>', 'dim')}))
    seen = see(write(tmp_path / 'x.png', bright()), tmp_path, name='m.onnx')
    assert '&lt;script&gt;' in summary(seen, 0.5) and '<script>' not in summary(seen, 0.5)


def test_models_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / 'a.onnx', Metadata(**METADATA))
    words = [str(folder / 'a.onnx'), str(tmp_path / 'a.onnx'), str(folder / 'b.xml')]
    models = open_models(words)
    assert list(models) == [*words[:2], 'b.xml']
    assert [model.kind for model in models.values()] == ['ONNX, fp32', 'ONNX, fp32', 'OpenVINO, fp32']
    with pytest.raises(UserError, match=r'c\.py: after a config, its checkpoint is wanted'):
        open_models(['c.py'])


def test_files_that_are_no_images_are_told(tmp_path: Path) -> None:
    whole = write(tmp_path / 'a.jpg', np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    (tmp_path / 'cut.jpg').write_bytes(whole.read_bytes()[:2000])
    (tmp_path / 'text.jpg').write_text('no image')
    (tmp_path / 'empty.jpg').touch()
    (tmp_path / 'vector.jpg').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
    huge(tmp_path / 'large.png', 11_000, 10_000)
    huge(tmp_path / 'bomb.png', 60_000, 60_000)
    for name, message in (
        ('cut.jpg', 'damaged, or cut short'),
        ('text.jpg', 'its content is none of BMP'),
        ('empty.jpg', 'its content is none of BMP'),
        ('vector.jpg', 'its content is none of BMP'),
        ('large.png', 'over 100 megapixels'),
        ('bomb.png', 'over 100 megapixels'),
        ('gone.png', 'no longer kept here'),
    ):
        with pytest.raises(UserError, match=f'^{name}: .*{message}'):
            read_upload(tmp_path / name)


def test_images_of_all_kinds_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'turned.jpg'
    write(path, bright(0, 60, 40), exif=rotated(6))
    assert read_upload(path)[0].shape == (40, 60, 3)
    path = tmp_path / 'print.jpg'
    Image.new('RGB', (40, 30), (200, 30, 30)).convert('CMYK').save(path)
    image, note = read_upload(path)
    assert (image.shape, note) == ((30, 40, 3), '')
    np.testing.assert_allclose(image.mean((0, 1)), [30, 30, 200], atol=12)
    path = tmp_path / 'moving.gif'
    frames = [Image.new('L', (40, 30), level) for level in (200, 10, 90)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    image, note = read_upload(path)
    assert note == 'The first of 3 frames.'
    assert image.mean() == pytest.approx(200, abs=2)

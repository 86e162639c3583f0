from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets.transforms import Resize

from ghost_det.deploy import Metadata
from ghost_det.deploy.letterbox import letterbox, place, to_image
from tests.export.exported import METADATA

SIDES = st.integers(1, 5000)


def metadata(height: int, width: int, **changes: Any) -> Metadata:
    sides = {'height': height, 'width': width, 'scale': (width, height)}
    return Metadata(**METADATA | sides | changes)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize('size', [(64, 64), (37, 101), (480, 640), (641, 333), (1, 50), (200, 3)])
@pytest.mark.parametrize(
    'canvas',
    [
        dict(height=96, width=96),
        dict(height=96, width=160, dynamic=True),
        dict(height=320, width=320),
        dict(height=96, width=160, scale=(150, 90), dynamic=True),
        dict(height=320, width=320, scale=(300, 310)),
    ],
)
def test_pixels_are_those_of_mmdet(size: tuple[int, int], canvas: dict[str, Any]) -> None:
    image, data = picture(*size), metadata(**canvas)
    if min(size) * max(canvas['height'], canvas['width']) < max(size):
        pytest.skip('mmdet cannot resize to nothing')
    theirs = Resize(scale=data.scale, keep_ratio=True)(dict(img=image))
    canvases, (at,) = letterbox([image], data)
    height, width = theirs['img'].shape[:2]
    np.testing.assert_array_equal(canvases[0, :height, :width], theirs['img'])
    assert (canvases[0, height:] == data.pad_value).all()
    assert (canvases[0, :, width:] == data.pad_value).all()
    assert theirs['scale_factor'] == (at.new_width / at.width, at.new_height / at.height)


def test_without_keep_ratio_the_canvas_is_filled_as_by_mmdet() -> None:
    image, data = picture(50, 120), metadata(64, 96, keep_ratio=False)
    theirs = Resize(scale=(96, 64), keep_ratio=False)(dict(img=image))
    canvases, _ = letterbox([image], data)
    np.testing.assert_array_equal(canvases[0], theirs['img'])


def test_boxes_come_back_as_from_mmdet() -> None:
    data = metadata(320, 320)
    at = place(641, 333, data)
    boxes = np.random.default_rng(0).uniform(0, 160, (50, 4)).astype(np.float32)
    factor = np.array([at.new_width / 641, at.new_height / 333] * 2, np.float32)
    np.testing.assert_allclose(to_image(boxes, at), boxes / factor, rtol=1e-6)


@given(SIDES, SIDES, st.sampled_from([(320, 320), (800, 1333), (64, 32)]), st.booleans(), st.booleans())
def test_any_image_fits_and_its_corners_come_back(
    width: int, height: int, canvas: tuple[int, int], dynamic: bool, keep_ratio: bool
) -> None:
    data = metadata(*canvas, dynamic=dynamic, keep_ratio=keep_ratio)
    at = place(width, height, data)
    limit = (max(canvas), max(canvas)) if dynamic else canvas
    assert 1 <= at.new_height <= limit[0]
    assert 1 <= at.new_width <= limit[1]
    corners = np.array([[0, 0, at.new_width, at.new_height]], np.float32)
    np.testing.assert_allclose(to_image(corners, at), [[0, 0, width, height]], rtol=1e-6)


def test_boxes_are_cut_at_the_border() -> None:
    at = place(100, 50, metadata(64, 64))
    found = to_image(np.array([[-5, -5, 70, 70], [10, 10, 20, 20]], np.float32), at)
    np.testing.assert_allclose(found[0], [0, 0, 100, 50])
    assert found[1].tolist() == [15.625, 15.625, 31.25, 31.25]


def test_a_dynamic_canvas_holds_all_images_of_a_batch() -> None:
    data = metadata(64, 128, dynamic=True)
    canvases, places = letterbox([picture(50, 100), picture(100, 50), picture(10, 100)], data)
    assert canvases.shape == (3, 128, 128, 3)
    assert [(at.new_height, at.new_width) for at in places] == [(64, 128), (128, 64), (13, 128)]
    alone, _ = letterbox([picture(10, 100)], data)
    assert alone.shape == (1, 32, 128, 3)


def test_a_high_image_on_a_wide_canvas_is_made_to_fit() -> None:
    at = place(60, 100, metadata(80, 133))
    assert (at.new_width, at.new_height) == (48, 80)

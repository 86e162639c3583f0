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
    return Metadata(**METADATA | dict(height=height, width=width, scale=(width, height)) | changes)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ('size', 'data'),
    [
        ((37, 101), metadata(96, 96)),
        ((641, 333), metadata(96, 160, scale=(150, 90), dynamic=True)),
        ((1, 50), metadata(320, 320, scale=(300, 310))),
        ((64, 64), metadata(64, 96, keep_ratio=False)),
        ((641, 333), metadata(64, 96, keep_ratio=False)),
    ],
)
def test_pixels_are_those_of_mmdet(size: tuple[int, int], data: Metadata) -> None:
    image = picture(*size)
    theirs = Resize(scale=data.scale, keep_ratio=data.keep_ratio)(dict(img=image))
    canvases, (at,) = letterbox([image], data)
    height, width = theirs['img'].shape[:2]
    np.testing.assert_array_equal(canvases[0, :height, :width], theirs['img'])
    assert (canvases[0, height:] == data.pad_value).all()
    assert (canvases[0, :, width:] == data.pad_value).all()
    assert theirs['scale_factor'] == (at.new_width / at.width, at.new_height / at.height)
    boxes = np.random.default_rng(0).uniform(0, min(height, width), (50, 4)).astype(np.float32)
    expected = boxes / np.array([*theirs['scale_factor']] * 2, np.float32)
    np.testing.assert_allclose(to_image(boxes, at), expected, rtol=1e-6)


@given(SIDES, SIDES, st.sampled_from([(320, 320), (800, 1333), (64, 32)]), st.booleans(), st.booleans())
def test_any_image_fits_and_its_boxes_are_cut_at_its_border(
    width: int, height: int, canvas: tuple[int, int], dynamic: bool, keep_ratio: bool
) -> None:
    at = place(width, height, metadata(*canvas, dynamic=dynamic, keep_ratio=keep_ratio))
    limit = (max(canvas), max(canvas)) if dynamic else canvas
    assert 1 <= at.new_height <= limit[0] and 1 <= at.new_width <= limit[1]
    corners = np.array([[0, 0, at.new_width, at.new_height], [-5, -5, 5000, 5000]], np.float32)
    np.testing.assert_allclose(to_image(corners, at), [[0, 0, width, height]] * 2, rtol=1e-6)


def test_a_dynamic_canvas_holds_all_images_of_a_batch_and_a_fixed_one_any_image() -> None:
    data = metadata(64, 128, dynamic=True)
    canvases, places = letterbox([picture(50, 100), picture(100, 50), picture(10, 100)], data)
    assert canvases.shape == (3, 128, 128, 3)
    assert [(at.new_height, at.new_width) for at in places] == [(64, 128), (128, 64), (13, 128)]
    assert letterbox([picture(10, 100)], data)[0].shape == (1, 32, 128, 3)
    assert place(60, 100, metadata(80, 133))[2:] == (48, 80)

from __future__ import annotations

import numpy as np
import pytest

from ghost_det.deploy import Detections
from ghost_det.deploy.draw import caption, colour_of, draw


def found(*boxes: list[float]) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.arange(count),
    )


def test_colours_differ_and_stay() -> None:
    colours = [colour_of(label) for label in range(80)]
    assert colours == [colour_of(label) for label in range(80)]
    assert len(set(colours)) == 80
    near = np.abs(np.diff(np.array(colours, float), axis=0)).sum(axis=1)
    assert near.min() > 100


def test_boxes_are_drawn_and_the_image_is_left_alone() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw(image, found([50, 60, 120, 150]), ['car'])
    assert not image.any()
    assert drawn[150, 80].tolist() == list(colour_of(0))
    assert drawn[100, 120].tolist() == list(colour_of(0))
    assert not drawn[100, 80].any()
    assert not drawn[155:].any()


@pytest.mark.parametrize('box', [[0, 0, 300, 200], [290, 0, 300, 5], [0, 190, 10, 200], [5, 5, 5, 5]])
def test_the_caption_is_inside_the_image(box: list[float]) -> None:
    image = np.full((200, 300, 3), 7, np.uint8)
    drawn = draw(image, found(box), ['car'])
    assert drawn.shape == image.shape
    ground = (drawn == np.array(colour_of(0))).all(axis=2)
    assert ground.sum() > 300  # of a text of some 60 by 12 pixels, with ink in it


def test_an_image_without_objects_and_one_of_a_pixel() -> None:
    image = np.full((1, 1, 3), 7, np.uint8)
    np.testing.assert_array_equal(draw(image, found(), ['car']), image)
    assert draw(image, found([0, 0, 1, 1]), ['car']).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('traffic light', 'traffic light 0.50'),
        ('信号', 'class 0 0.50'),
        ('a\nb', 'class 0 0.50'),
        (' ', 'class 0 0.50'),
        ('x' * 99, f'{"x" * 30} 0.50'),
    ],
)
def test_names_that_a_caption_can_show(name: str, text: str) -> None:
    assert caption(0, 0.5, [name]) == text

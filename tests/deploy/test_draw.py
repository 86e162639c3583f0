from __future__ import annotations

import numpy as np
import pytest

from ghost_det.deploy import Detections
from ghost_det.deploy.draw import caption, colour_of, draw


def found(box: list[float]) -> Detections:
    return Detections(np.array([box], np.float32), np.array([0.9], np.float32), np.array([0]))


def test_colours_differ() -> None:
    colours = [colour_of(label) for label in range(80)]
    assert len(set(colours)) == 80
    assert np.abs(np.diff(np.array(colours, float), axis=0)).sum(axis=1).min() > 100


def test_boxes_are_drawn_on_a_copy() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw(image, found([50, 60, 120, 150]), ['car'])
    assert not image.any()
    assert drawn[150, 80].tolist() == drawn[100, 120].tolist() == list(colour_of(0))
    assert not drawn[100, 80].any() and not drawn[155:].any()
    assert draw(image[:1, :1], found([0, 0, 1, 1]), ['car']).shape == (1, 1, 3)


@pytest.mark.parametrize('box', [[0, 0, 300, 200], [290, 0, 300, 5], [0, 190, 10, 200], [5, 5, 5, 5]])
def test_the_caption_is_inside_the_image(box: list[float]) -> None:
    image = np.full((200, 300, 3), 7, np.uint8)
    drawn = draw(image, found(box), ['car'])
    # The box behind a text of some 60 by 12 pixels.
    assert (drawn == np.array(colour_of(0))).all(axis=2).sum() > 300


def test_captions_are_ascii_and_short() -> None:
    texts = [caption(0, 0.5, [name]) for name in ('traffic light', '信号', 'a\nb', ' ', 'x' * 99)]
    assert texts == ['traffic light 0.50', *['class 0 0.50'] * 3, f'{"x" * 30} 0.50']
    assert caption(0, None, ['car']) == 'car'

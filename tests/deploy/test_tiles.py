from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sahi.postprocess.combine import NMSPostprocess
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes

from ghost_det.deploy import Detections, Detector, Metadata, TiledDetector
from ghost_det.deploy.tiles import merge, tile_corners
from ghost_det.errors import UserError
from tests.export.exported import METADATA, save

from .test_detector import bright

SIZES = [(641, 333), (40, 900), (640, 640), (1000, 640), (1281, 1100), (3, 2), (639, 1153)]
EMPTY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def random_boxes(seed: int, count: int = 200) -> Detections:
    """Boxes in crowds, many of them with equal scores, of three classes."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(4, 80, (count, 2))], axis=1)
    scores = random.integers(1, 50, count) / 50
    return Detections(boxes.astype(np.float32), scores.astype(np.float32), random.integers(0, 3, count))


class Blobs:
    """Finds every white blob of a view, cut ones too, and notes the sizes of the views."""

    classes = ('blob',)

    def __init__(self) -> None:
        self.views: list[tuple[int, int]] = []

    def stream(self, images: Iterable[Any], batch: int = 1) -> Iterator[Detections]:
        for image in images:
            self.views.append(image.shape[1::-1])
            _, _, found, _ = cv2.connectedComponentsWithStats((image[:, :, 0] > 200).astype(np.uint8))
            x, y, width, height, area = found[1:].T.astype(np.float32)
            boxes = np.stack([x, y, x + width, y + height], axis=1)
            yield Detections(boxes, area / 1e4, np.zeros(len(boxes), np.int64))


@pytest.mark.parametrize(('tile', 'overlap'), [(640, 0.2), (320, 0.33), (100, 0), (32, 0.9)])
def test_tiles_and_kept_boxes_are_those_of_sahi(tile: int, overlap: float) -> None:
    for width, height in SIZES:
        ratios = dict(overlap_height_ratio=overlap, overlap_width_ratio=overlap)
        theirs = get_slice_bboxes(height, width, tile, tile, **ratios)
        assert tile_corners(width, height, tile, overlap) == [(x, y) for x, y, _, _ in theirs]
    found = random_boxes(tile)
    given = [
        ObjectPrediction(
            bbox=box.tolist(), score=float(score), category_id=int(label), category_name=str(label)
        )
        for box, score, label in zip(found.boxes, found.scores, found.labels)
    ]
    merged = NMSPostprocess(match_threshold=0.5, match_metric='IOS', class_agnostic=False)(given)
    expected = sorted((-each.score.value, each.category.id, *each.bbox.to_xyxy()) for each in merged)
    ours = merge([found, EMPTY])
    rows = sorted(
        (-score, label, *box) for box, score, label in zip(*(x.tolist() for x in vars(ours).values()))
    )
    print(f'{len(found)} boxes, {len(ours)} kept')
    assert 40 < len(ours) < 150 and (np.diff(ours.scores) <= 0).all()
    np.testing.assert_allclose(rows, expected)


def test_every_pixel_is_in_a_tile_and_tiles_overlap() -> None:
    for width, height in SIZES:
        seen = np.zeros((height, width), int)
        corners = tile_corners(width, height, 320, 0.2)
        for x, y in corners:
            seen[y : y + 320, x : x + 320] += 1
            assert x + min(320, width) <= width and y + min(320, height) <= height
        assert seen.min() == 1 and len(corners) == len({*corners})


def test_the_order_of_the_parts_changes_nothing() -> None:
    parts = [random_boxes(seed, 50) for seed in range(4)]
    there, back = merge(parts), merge(parts[::-1])
    for key in ('boxes', 'scores', 'labels'):
        np.testing.assert_array_equal(getattr(there, key), getattr(back, key))
    assert len(merge([EMPTY, EMPTY])) == 0


@pytest.mark.parametrize(('width', 'height'), [(641, 333), (90, 700), (500, 500)])
def test_an_object_at_a_seam_is_found_once_and_complete(width: int, height: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    expected = []
    for x in range(5, width - 30, 61):
        for y in range(7, height - 30, 53):
            image[y : y + 30, x : x + 25] = 255
            expected.append([x, y, x + 25, y + 30])
    blobs = Blobs()
    _, found, again = TiledDetector(blobs, 160).stream([image[:100, :90], image, image])
    corners = tile_corners(width, height, 160)
    assert len(blobs.views) == 1 + 2 * (1 + len(corners)) and max(blobs.views[2]) <= 160
    assert sorted(found.boxes.tolist()) == sorted(expected)
    np.testing.assert_array_equal(found.boxes, again.boxes)


def test_a_detector_finds_in_tiles_what_is_too_small_in_the_image(tmp_path: Path) -> None:
    detector = Detector(save(tmp_path / 'm.onnx', Metadata(**METADATA)))  # at 64 x 64 px
    image = np.zeros((640, 640, 3), np.uint8)
    image[300:306, 126:131] = 255  # at the seam of tiles of 64 px
    assert len(detector(image)) == 0
    for batch in (1, 3):
        (found,) = TiledDetector(detector, 64).stream([image], batch)
        assert found.boxes.tolist() == [[126, 300, 131, 306]] * 2 and found.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(TiledDetector(detector, 128)(bright()).boxes, detector(bright()).boxes)


def test_wrong_values_are_one_message() -> None:
    for tile, overlap, name in ((31, 0.2, 'tile'), (64, 0.95, 'overlap'), (64, -0.1, 'overlap')):
        with pytest.raises(UserError, match=f'^{name}: expected'):
            TiledDetector(Blobs(), tile, overlap)
    with pytest.raises(UserError, match='expected an image, uint8'):
        TiledDetector(Blobs(), 64)(np.zeros((90, 90), np.uint8))

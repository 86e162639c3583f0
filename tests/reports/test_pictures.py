from __future__ import annotations

import cv2
import numpy as np

from ghost_det.reports.pictures import draw_pair, ends, rank
from tests.scenes import annotations, hard_scene

BOX = [10.0, 10.0, 50.0, 50.0]


def test_images_are_ranked_by_what_is_right() -> None:
    boxes = [(1, BOX), (6, BOX), (6, [100.0, 10, 50, 50]), (11, BOX)]
    truth = annotations(
        [{'image_id': i, 'category_id': 7, 'bbox': b, 'area': 2500.0, 'iscrowd': 0} for i, b in boxes],
        5,
        (7, 3),
    )
    found = [
        {'image_id': 1, 'category_id': 7, 'bbox': BOX, 'score': 0.9},
        {'image_id': 1, 'category_id': 7, 'bbox': BOX, 'score': 0.29},  # not shown, so no error
        {'image_id': 6, 'category_id': 7, 'bbox': BOX, 'score': 0.9},
        {'image_id': 6, 'category_id': 3, 'bbox': [100.0, 10, 50, 50], 'score': 0.9},  # of another class
        {'image_id': 16, 'category_id': 7, 'bbox': BOX, 'score': 0.5},
    ]
    ranked = rank(truth, found)
    assert [each.image_id for each in ranked] == [1, 6, 11, 16]
    assert [each.f1 for each in ranked] == [1, 0.5, 0, 0]  # the fifth image has nothing
    assert ranked[1][2:] == (2, 2, 1)
    best, worst = ends(ranked, 2)
    assert [each.image_id for each in best] == [1, 6] and {each.image_id for each in worst} == {11, 16}
    assert ends(ranked[2:], 3)[0] == [] and ends(ranked[:1], 3) == (ranked[:1], [])
    assert ends([], 3) == ([], [])
    scene, results = hard_scene(0)
    best, worst = ends(rank(scene, results), 6)
    assert len(best) == len(worst) == 6 and not set(best) & set(worst)
    assert min(each.f1 for each in best) >= max(each.f1 for each in worst)


def test_ground_truth_is_on_the_left_and_detections_are_on_the_right() -> None:
    image = np.zeros((300, 336, 3), np.uint8)
    true = [{'category_id': 7, 'bbox': [100, 100, 100, 100]}]
    found = [{'category_id': 7, 'bbox': [100, 100, 100, 100], 'score': score} for score in (0.9, 0.1)]
    for boxes, results, sides in ((true, [], 0), ([], found[:1], 1), ([], found[1:], None)):
        data = draw_pair(image, boxes, results, [{'id': 7, 'name': 'x'}])
        drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).max(axis=2)
        lit = [bool((half > 128).any()) for half in (drawn[:, :330], drawn[:, 348:])]
        assert lit == [sides == 0, sides == 1]

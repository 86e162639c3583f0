from types import SimpleNamespace
from typing import Any

import numpy as np

from ghost_det.reports.pictures import best_and_worst, draw_pair, rank
from tests.scenes import annotations, hard_scene

BOX = [10.0, 10.0, 50.0, 50.0]


def test_images_are_ranked_by_correct_detections() -> None:
    boxes = [(1, BOX), (6, BOX), (6, [100.0, 10, 50, 50]), (11, BOX)]
    truth = annotations(
        [{'image_id': i, 'category_id': 7, 'bbox': b, 'area': 2500.0, 'iscrowd': 0} for i, b in boxes],
        5,
        (7, 3),
    )
    found = [
        {'image_id': 1, 'category_id': 7, 'bbox': BOX, 'score': 0.9},
        {'image_id': 1, 'category_id': 7, 'bbox': BOX, 'score': 0.29},  # below the threshold
        {'image_id': 6, 'category_id': 7, 'bbox': BOX, 'score': 0.9},
        {'image_id': 6, 'category_id': 3, 'bbox': [100.0, 10, 50, 50], 'score': 0.9},  # another class
        {'image_id': 16, 'category_id': 7, 'bbox': BOX, 'score': 0.5},
    ]
    ranked = rank(truth, found)
    assert [each.image_id for each in ranked] == [1, 6, 11, 16]
    assert [each.f1 for each in ranked] == [1, 0.5, 0, 0]  # the fifth image is empty
    assert ranked[1][2:] == (2, 2, 1)
    best, worst = best_and_worst(ranked)
    assert [each.image_id for each in best] == [1, 6] and [each.image_id for each in worst] == [16, 11]
    assert best_and_worst(ranked[2:])[0] == []
    assert best_and_worst(ranked[:1]) == (ranked[:1], []) and best_and_worst([]) == ([], [])
    best, worst = best_and_worst(rank(*hard_scene(0)))
    assert len(best) == len(worst) == 3 and not set(best) & set(worst)
    assert min(each.f1 for each in best) >= max(each.f1 for each in worst)


def test_ground_truth_is_left_of_detections() -> None:
    image = np.zeros((150, 168, 3), np.uint8)
    box = {'image_id': 1, 'category_id': 7, 'bbox': [50, 50, 50, 50]}
    for truth, results, expected in (
        ([box], [], [True, False]),
        ([], [{**box, 'score': 0.9}], [False, True]),
        ([{**box, 'image_id': 2}], [{**box, 'score': 0.2}], [False, False]),
    ):
        content = {'annotations': truth, 'categories': [{'id': 3, 'name': 'y'}, {'id': 7, 'name': 'x'}]}
        metric: Any = SimpleNamespace(truth=content, detections={'bbox': results})
        drawn = draw_pair(image, 1, metric).max(axis=2)
        assert drawn.shape == (300, 336 + 6 + 336) and (drawn[:, 336:342] == 255).all()
        assert [bool((half > 128).any()) for half in (drawn[:, :336], drawn[:, 342:])] == expected
        if results and expected[1]:
            assert drawn[100:201, [442, 542]].min() > 128 and drawn[98:202, 440:545].max() > 128

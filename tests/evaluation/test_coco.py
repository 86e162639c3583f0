from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ghost_det.errors import UserError
from ghost_det.evaluation.coco import EVALUATOR, FAST, REFERENCE, evaluate
from tests.scenes import annotations, hard_scene

EVALUATORS = sorted({EVALUATOR, REFERENCE})
Scene = tuple[dict[str, Any], list[dict[str, Any]]]


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str = 'bbox') -> Any:
    """An evaluation as pycocotools' own example has it."""
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = copy.deepcopy(truth)
        true.createIndex()
        run = COCOeval(true, true.loadRes(copy.deepcopy(results)), iou_type)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


def with_masks(truth: dict[str, Any], results: list[dict[str, Any]]) -> Scene:
    """The same with each box as a mask of it, those of the ground truth without their lower right corners."""
    size = 300, 400

    def encode(box: list[float], cut: bool) -> dict[str, Any]:
        x, y, w, h = (round(value) for value in box)
        picture = np.zeros(size, dtype=np.uint8, order='F')
        picture[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 1
        if cut:
            picture[max(y + h // 2, 0) : max(y + h, 0), max(x + w // 2, 0) : max(x + w, 0)] = 0
        return {'size': list(size), 'counts': masks.encode(picture)['counts'].decode()}

    boxes = [{**box, 'segmentation': encode(box['bbox'], not box['iscrowd'])} for box in truth['annotations']]
    kept = ('image_id', 'category_id', 'score')
    found = [
        {**{key: each[key] for key in kept}, 'segmentation': encode(each['bbox'], False)} for each in results
    ]
    return {**truth, 'annotations': boxes}, found


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('evaluator', EVALUATORS)
def test_figures_equal_pycocotools(evaluator: str, seed: int) -> None:
    truth, results = hard_scene(seed)
    run = by_pycocotools(truth, results)
    before = copy.deepcopy((truth, results))
    found = evaluate(truth, results, evaluator=evaluator)
    assert (truth, results) == before
    assert list(found.figures.values()) == run.stats.tolist()  # not nearly: the same numbers
    precision = run.eval['precision'][..., -1]  # IoUs, recalls, classes, sizes
    assert np.array_equal(found.precision, precision[..., 0])
    for index, each in enumerate(found.classes):
        parts = [precision[:, :, index, 0], precision[0, :, index, 0], precision[5, :, index, 0]]
        parts += [precision[:, :, index, size] for size in (1, 2, 3)]
        assert list(each.figures.values()) == pytest.approx([part.mean() for part in parts], abs=1e-15)
        assert each.boxes == sum(
            box['category_id'] == each.category_id and not box['iscrowd'] for box in truth['annotations']
        )
    assert 0 < run.stats[0] < 1 and run.stats[6] < run.stats[7] <= run.stats[8]
    assert found.evaluator.startswith(evaluator)
    assert found.boxes + found.crowds == len(truth['annotations']) and found.crowds > 0


@pytest.mark.parametrize('first', [2**53 - 91, -(2**60)])
def test_large_ids_do_not_collide(first: int) -> None:
    truth, results = hard_scene(0)
    for entry in (*truth['images'], *truth['categories']):
        entry['id'] += first
    for entry in (*truth['annotations'], *results):
        entry.update(image_id=entry['image_id'] + first, category_id=entry['category_id'] + first)
    found = evaluate(truth, results)
    assert list(found.figures.values()) == by_pycocotools(*hard_scene(0)).stats.tolist()
    assert [each.category_id - first for each in found.classes] == [3, 7, 12, 44, 90]
    assert [each.name for each in found.classes] == [f'class {n}' for n in (3, 7, 12, 44, 90)]


@pytest.mark.parametrize('key', ['image_id', 'category_id'])
def test_detections_of_another_data_set_are_refused(key: str) -> None:
    truth, results = hard_scene(0)
    with pytest.raises(UserError, match=f'{key} 999'):
        evaluate(truth, [*results, {**results[0], key: 999}])


@pytest.mark.parametrize('evaluator', EVALUATORS)
def test_figures_of_masks_equal_pycocotools(evaluator: str) -> None:
    truth, results = with_masks(*hard_scene(0))
    run = by_pycocotools(truth, results, 'segm')
    assert list(evaluate(truth, results, 'segm', evaluator).figures.values()) == run.stats.tolist()
    assert 0 < run.stats[0] < 1


@pytest.mark.skipif(EVALUATOR != FAST, reason='faster-coco-eval is not installed')
@pytest.mark.parametrize('boxes', [1, 2, 3, 64, 65, 1001])
@pytest.mark.parametrize('right', ['1', '11', '01', '1' * 30])
def test_first_detections_have_pycocotools_last_digit(boxes: int, right: str) -> None:
    """Of many boxes, whether the second detection is right is less than one step of recall."""
    places = [{'image_id': n // 10 * 5 + 1, 'category_id': 1} for n in range(max(boxes, len(right) + 1))]
    true = [
        {**place, 'bbox': [40.0 * (n % 10), 0.0, 20.0, 20.0], 'area': 400.0, 'iscrowd': 0}
        for n, place in enumerate(places[:boxes])
    ]
    results = [
        {**place, 'bbox': [40.0 * (n % 10), 50.0 * (hit == '0'), 20.0, 20.0], 'score': 0.9 - n / 1000}
        for n, (hit, place) in enumerate(zip(right + '0', places))
    ]
    truth = annotations(true, len(places) // 10 + 1, (1,))
    run = by_pycocotools(truth, results)
    found = evaluate(truth, results, evaluator=FAST)
    assert list(found.figures.values()) == run.stats.tolist()
    assert np.array_equal(found.precision, run.eval['precision'][:, :, :, 0, -1])

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
from ghost_det.evaluation.coco import (
    EVALUATOR,
    FAST,
    REFERENCE,
    evaluate,
)
from tests.scenes import BORDERS, annotations, hard_scene

both = pytest.mark.skipif(EVALUATOR != FAST, reason='faster-coco-eval is not installed')


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


def with_masks(
    truth: dict[str, Any], results: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same with each box as a mask of it, those of the ground truth without their lower right corners."""
    size = 300, 400

    def code(box: list[float], cut: bool) -> dict[str, Any]:
        x, y, w, h = (round(value) for value in box)
        picture = np.zeros(size, dtype=np.uint8, order='F')
        picture[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 1
        if cut:
            picture[max(y + h // 2, 0) : max(y + h, 0), max(x + w // 2, 0) : max(x + w, 0)] = 0
        encoded = masks.encode(picture)
        return {'size': list(size), 'counts': encoded['counts'].decode()}

    boxes = [{**box, 'segmentation': code(box['bbox'], not box['iscrowd'])} for box in truth['annotations']]
    kept = ('image_id', 'category_id', 'score')
    found = [
        {**{key: each[key] for key in kept}, 'segmentation': code(each['bbox'], False)} for each in results
    ]
    return {**truth, 'annotations': boxes}, found


def test_the_hard_scene_has_everything_in_it() -> None:
    truth, results = hard_scene(0)
    boxes = truth['annotations']
    assert sum(box['iscrowd'] for box in boxes) > 5 and sum(box['area'] in BORDERS for box in boxes) > 10
    assert any(box['bbox'][2] * box['bbox'][3] == 0 for box in boxes)
    with_boxes, found = ({each['image_id'] for each in part} for part in (boxes, results))
    images = {image['id'] for image in truth['images']}
    assert images - with_boxes - found and found - with_boxes and with_boxes - found
    assert len({each['score'] for each in results}) < len(results) / 2
    per_image = [sum(each['image_id'] == image for each in results) for image in images]
    assert max(per_image) > 150
    run = by_pycocotools(truth, results)
    overlaps = np.concatenate([np.ravel(each) for each in run.ious.values() if len(each)])
    assert all((np.isclose(overlaps, wanted, atol=1e-12)).sum() > 3 for wanted in (0.5, 0.6, 0.8, 0.9, 1))
    assert 44 in run.params.catIds and 44 not in {box['category_id'] for box in boxes}


@pytest.mark.parametrize('seed', range(12))
def test_figures_are_pycocotools_to_the_last_digit(seed: int) -> None:
    truth, results = hard_scene(seed)
    run = by_pycocotools(truth, results)
    for evaluator in {EVALUATOR, REFERENCE}:
        found = evaluate(copy.deepcopy(truth), results, evaluator=evaluator)
        assert list(found.figures.values()) == run.stats.tolist()  # not nearly: the same numbers
        assert np.array_equal(found.precision, run.eval['precision'][:, :, :, 0, -1])
        per_class = run.eval['precision'][:, :, :, 0, -1].mean(axis=(0, 1))
        assert [each.figures['AP'] for each in found.classes] == pytest.approx(per_class, abs=1e-15)
    assert 0 < run.stats[0] < 1 and run.stats[6] < run.stats[7] <= run.stats[8]


@pytest.mark.parametrize('first', [2**53, 10**17, -(2**60)])
def test_large_ids_do_not_collide(first: int) -> None:
    truth, results = hard_scene(0)
    for entry in (*truth['images'], *truth['categories']):
        entry['id'] += first
    for entry in (*truth['annotations'], *results):
        entry.update(image_id=entry['image_id'] + first, category_id=entry['category_id'] + first)
    wanted = by_pycocotools(truth, results).stats.tolist()
    assert wanted == by_pycocotools(*hard_scene(0)).stats.tolist()
    for evaluator in {EVALUATOR, REFERENCE}:
        found = evaluate(truth, results, evaluator=evaluator)
        assert list(found.figures.values()) == wanted
        assert [each.category_id - first for each in found.classes] == [3, 7, 12, 44, 90]
        assert [each.name for each in found.classes] == [f'class {n}' for n in (3, 7, 12, 44, 90)]


def test_detections_of_another_data_set_are_refused() -> None:
    truth, results = hard_scene(0)
    with pytest.raises(UserError, match='the image or category id 999, which the annotations'):
        evaluate(truth, [*results, {**results[0], 'image_id': 999}])


@both
@pytest.mark.parametrize('seed', range(3))
def test_masks_too(seed: int) -> None:
    truth, results = with_masks(*hard_scene(seed))
    run = by_pycocotools(truth, results, 'segm')
    for evaluator in (FAST, REFERENCE):
        found = evaluate(copy.deepcopy(truth), copy.deepcopy(results), 'segm', evaluator)
        assert list(found.figures.values()) == run.stats.tolist()
    assert 0 < run.stats[0] < 1


@both
@pytest.mark.parametrize('boxes', [1, 2, 3, 4, 5, 64, 65, 199, 200, 201, 513, 1001])
@pytest.mark.parametrize('right', ['', '1', '11', '01', '101', '110', '1' * 30])
def test_first_detections_have_pycocotools_last_digit(boxes: int, right: str) -> None:
    """Of many boxes, whether the second detection is right is less than one step of recall."""
    places = [{'image_id': n // 10 * 5 + 1, 'category_id': 1} for n in range(max(boxes, len(right) + 1))]
    box = [0.0, 0.0, 20.0, 20.0]
    true = [
        {**place, 'bbox': [40.0 * (n % 10), *box[1:]], 'area': 400.0, 'iscrowd': 0}
        for n, place in enumerate(places[:boxes])
    ]
    results = [
        {**place, 'bbox': [40.0 * (n % 10), 0.0 if hit == '1' else 50.0, *box[2:]], 'score': 0.9 - n / 1000}
        for n, (hit, place) in enumerate(zip(right + '0', places))
    ]
    truth = annotations(true, len(places) // 10 + 1, (1,))
    run = by_pycocotools(truth, results)
    found = evaluate(truth, results, evaluator=FAST)
    assert list(found.figures.values()) == run.stats.tolist()
    assert np.array_equal(found.precision, run.eval['precision'][:, :, :, 0, -1])


def test_class_figures_bear_the_right_names_whatever_the_order_of_the_file() -> None:
    true = [
        {'image_id': 1, 'category_id': c, 'bbox': [0.0, 0.0, 40.0, 40.0], 'area': 1600.0, 'iscrowd': 0}
        for c in (7, 3)
    ]
    hit = {'image_id': 1, 'category_id': 7, 'bbox': [0.0, 0.0, 40.0, 40.0], 'score': 0.5}
    found = evaluate(annotations(true, 1, (7, 3)), [hit])
    assert {each.name: round(each.figures['AP'], 9) for each in found.classes} == {'class 3': 0, 'class 7': 1}


def test_the_evaluator_is_the_fast_one_where_there_is_one() -> None:
    truth, results = hard_scene(0)
    assert evaluate(truth, results).evaluator.startswith(EVALUATOR)
    assert evaluate(truth, results, evaluator=REFERENCE).evaluator.startswith('pycocotools 2')
    assert EVALUATOR in (FAST, REFERENCE)

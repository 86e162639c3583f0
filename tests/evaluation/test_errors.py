from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ghost_det.evaluation.coco import evaluate
from ghost_det.evaluation.errors import KINDS, SCORE, analyse
from tests.scenes import annotations, hard_scene
from tools.benchmarks.evaluation import write_scene

from .test_coco import with_masks

PERSON, DOG = 1, 2
PLACE = [100.0, 100.0, 40.0, 40.0]


def true(category: int = PERSON, box: list[float] = PLACE, image: int = 1, crowd: int = 0) -> dict[str, Any]:
    place = {'image_id': image, 'category_id': category, 'bbox': box}
    return {**place, 'area': box[2] * box[3], 'iscrowd': crowd}


def found(
    category: int = PERSON, box: list[float] = PLACE, score: float = 0.9, image: int = 1
) -> dict[str, Any]:
    return {'image_id': image, 'category_id': category, 'bbox': box, 'score': score}


def moved(overlap: float) -> list[float]:
    """PLACE, moved to the right until it overlaps itself by this IoU."""
    return [PLACE[0] + PLACE[2] * (1 - overlap) / (1 + overlap), *PLACE[1:]]


FAR = [300.0, 200.0, 40.0, 40.0]


@pytest.mark.parametrize(
    ('detections', 'kind', 'count'),
    [
        ([found(DOG)], 'classification', 1),
        ([found(box=moved(0.4))], 'localisation', 1),
        ([found(DOG, box=moved(0.4))], 'both', 1),
        ([found(), found(score=0.8)], 'duplicate', 1),
        ([found(), found(box=FAR)], 'background', 1),
        ([found(), found(box=moved(0.05), score=0.8)], 'background', 1),
        ([], 'missed', 1),
        ([found(DOG, box=FAR), found(DOG, box=moved(0.09))], 'background', 2),
        # Where two kinds fit: localisation before classification, that before duplicates.
        ([found(), found(box=moved(0.3), score=0.8)], 'localisation', 1),
    ],
)
def test_each_kind_by_hand(detections: list[dict[str, Any]], kind: str, count: int) -> None:
    truth = annotations([true(), true(DOG, FAR, image=6)], 2, (PERSON, DOG))
    errors = analyse(truth, [*detections, found(DOG, FAR, image=6)])
    assert errors.counts[kind] == count
    missed = not any(each in detections for each in (found(), found(DOG), found(box=moved(0.4))))
    assert errors.counts['missed'] == missed  # what a fixed detection would find is not missed
    assert sum(errors.counts.values()) == count + (missed if kind != 'missed' else 0)


def test_gains_by_hand() -> None:
    # Of two boxes of one class one is found, first; the other under a wrong class, or badly placed.
    other = [200.0, 100.0, 40.0, 40.0]
    truth = annotations([true(), true(box=other), true(DOG, FAR)], 1, (PERSON, DOG))
    half = 51 / 101  # COCO's AP of one of two: precision 1 at recalls to 0.5
    mistaken, misplaced = found(DOG, other, 0.5), found(box=[220.0, *other[1:]], score=0.5)
    for wrong, kind in ((mistaken, 'classification'), (misplaced, 'localisation')):
        errors = analyse(truth, [found(), found(DOG, FAR), wrong])
        assert errors.ap == pytest.approx((half + 1) / 2)
        assert errors.gains[kind] == pytest.approx((1 - half) / 2)
        assert errors.gains['missed'] == 0 and errors.counts['missed'] == 0
        assert errors.gains['false negatives'] == pytest.approx((1 - half) / 2)


def test_of_two_that_a_fix_would_make_right_one_counts() -> None:
    truth = annotations([true()], 1, (PERSON, DOG))
    errors = analyse(truth, [found(box=moved(0.4), score=0.9), found(box=moved(0.3), score=0.8)])
    assert errors.counts['localisation'] == 2 and errors.gains['localisation'] == pytest.approx(1)
    errors = analyse(truth, [found(score=0.9), found(box=moved(0.3), score=0.95)])
    assert errors.ap == pytest.approx(0.5) and errors.gains['localisation'] == pytest.approx(0.5)


def test_what_lies_in_a_crowd_is_no_error() -> None:
    crowd = true(box=[200.0, 100.0, 100.0, 100.0], crowd=1)
    truth = annotations([true(), crowd], 1, (PERSON, DOG))
    inside = found(box=[210.0, 110.0, 30.0, 30.0])
    analysis = analyse(truth, [found(), inside])
    assert sum(analysis.counts.values()) == 0 and analysis.confusion.sum() == 1
    assert analyse(truth, [found(), {**inside, 'category_id': DOG}]).counts['background'] == 1
    truth = annotations([true(), crowd, true(DOG, inside['bbox'])], 1, (PERSON, DOG))
    assert analyse(truth, [found(), inside]).confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_a_class_of_which_all_is_missed_and_nothing_found_no_longer_counts() -> None:
    errors = analyse(annotations([true(), true(DOG, FAR)], 1, (PERSON, DOG)), [found()])
    assert errors.ap == pytest.approx(0.5) == errors.gains['missed']


def test_of_equal_overlaps_the_last_object_is_taken_as_in_pycocotools() -> None:
    left, right = [PLACE[0] - 8, *PLACE[1:]], [PLACE[0] + 8, *PLACE[1:]]
    truth = annotations([true(box=left), true(box=right)], 1, (PERSON,))
    detections = [found(), found(box=left, score=0.8)]
    assert sum(analyse(truth, detections).counts.values()) == 0
    assert analyse(truth, detections).ap == pytest.approx(evaluate(truth, detections).figures['mAP_50'])


def test_ap_is_cocos_of_boxes_and_masks() -> None:
    for scene, iou_type in ((hard_scene(1), 'bbox'), (with_masks(*hard_scene(0)), 'segm')):
        analysis = analyse(*scene, iou_type)
        assert analysis.ap == pytest.approx(evaluate(*scene, iou_type).figures['mAP_50'], abs=1e-12)
        assert all(0 <= gain <= 1 - analysis.ap + 1e-9 for gain in analysis.gains.values())
        assert all(analysis.counts[kind] for kind in KINDS)


def test_gains_equal_the_papers_program(tmp_path: Path) -> None:
    """What tidecv 1.0.1 gives for the same two files; its recalls i / 100 are not all COCO's own.

    Without crowds, and detections only of classes with ground truth, as tidecv counts these otherwise.
    """
    truth, results = (json.loads(path.read_text()) for path in write_scene(tmp_path, 60, detections=40))
    for box in truth['annotations']:
        box['iscrowd'] = 0
    used = {box['category_id'] for box in truth['annotations']}
    errors = analyse(truth, [each for each in results if each['category_id'] in used])
    assert [errors.counts[kind] for kind in KINDS] == [144, 241, 193, 303, 619, 62]
    assert 100 * errors.ap == pytest.approx(25.564494332699933, abs=1e-9)
    expected = [5.160037279014613, 5.955932491651897, 1.7821607079903359, 1.1760572279598058]
    expected += [13.255681595578185, 3.6807952198226808, 44.53451556829016, 8.4691287846716]
    assert [100 * gain for gain in errors.gains.values()] == pytest.approx(expected, abs=0.01)
    exact = [name for name in errors.gains if name not in ('missed', 'false negatives')]
    assert [100 * errors.gains[name] for name in exact] == pytest.approx(
        [*expected[:5], expected[6]], abs=1e-9
    )


def test_confusion_by_hand() -> None:
    truth = annotations([true(), true(DOG, FAR), true(box=PLACE, image=6)], 2, (DOG, PERSON))
    detections = [
        found(),  # right, though the dog below overlaps as much with a higher score
        found(DOG, PLACE, 0.95),
        found(PERSON, FAR, 0.6),  # the dog taken for a person
        found(PERSON, FAR, 0.5),  # again: nothing is left there
        found(score=SCORE - 0.01, image=6),
    ]
    analysis = analyse(truth, detections)
    assert analysis.classes == ['class 1', 'class 2']
    #                                      person dog nothing
    assert analysis.confusion.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0]]
    assert analyse(truth, detections, score=0.1).confusion[0].tolist() == [2, 0, 0]

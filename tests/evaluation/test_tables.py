from __future__ import annotations

from ghost_det.evaluation.coco import EVALUATOR, FIGURES, REFERENCE, UNDEFINED, evaluate
from ghost_det.evaluation.errors import analyse
from ghost_det.evaluation.tables import class_table, error_table, figure_table, notes
from tests.scenes import annotations


def test_undefined_figures_are_explained() -> None:
    true = [{'image_id': 1, 'category_id': 1, 'bbox': [0.0, 0.0, 8.0, 8.0], 'area': 64.0, 'iscrowd': 0}]
    truth = annotations(true, 2, (1, 2))
    hit = {'image_id': 1, 'category_id': 1, 'bbox': [0.0, 0.0, 8.0, 8.0], 'score': 0.5}
    found = evaluate(truth, [hit])
    assert found.figures['mAP_m'] == found.figures['AR_l@100'] == UNDEFINED
    table = figure_table([found])
    assert '-1' not in table and '| mAP_m    | -    ' in table and '| mAP_s    | 1.000' in table
    assert 'no ground truth of this size (medium, 32² to 96²) among 1 box' in table
    assert '1 class without ground truth, not counted: class 2' in table
    assert '| class 2 | 0     | -     ' in class_table(found) and '-1' not in class_table(found)
    assert len(notes(found)) == 3


def test_missing_detections_and_missing_ground_truth_are_explained() -> None:
    true = [{'image_id': 1, 'category_id': 1, 'bbox': [0.0, 0.0, 8.0, 8.0], 'area': 64.0, 'iscrowd': 0}]
    for evaluator in {EVALUATOR, REFERENCE}:
        found = evaluate(annotations(true, 2, (1,)), [], evaluator=evaluator)
        assert [found.figures[name] for name in ('mAP', 'mAP_s', 'AR@1', 'mAP_m')] == [0, 0, 0, UNDEFINED]
        assert 'nothing was detected in 2 images' in figure_table([found])
        found = evaluate(annotations([], 2, (1,)), [], evaluator=evaluator)
        assert set(found.figures.values()) == {UNDEFINED} and len(found.figures) == len(FIGURES)
        table = figure_table([found])
        assert 'no box that counts' in table and 'All 0' not in table


def test_confused_classes_are_listed() -> None:
    box = [100.0, 100.0, 40.0, 40.0]
    true = [
        {'image_id': image, 'category_id': 1, 'bbox': box, 'area': 1600.0, 'iscrowd': 0} for image in (1, 6)
    ]
    found = [{'image_id': image, 'category_id': 2, 'bbox': box, 'score': 0.9} for image in (1, 6)]
    table = error_table(analyse(annotations(true, 2, (1, 2)), found))
    assert 'class 1 found as class 2: 2 of 2 boxes (score from 0.3)' in table
    assert 'no ground truth: nothing to gain' in error_table(analyse(annotations([], 2, (1,)), []))


def test_a_long_class_name_leaves_room_for_its_figures() -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    true = [{'image_id': 1, 'category_id': 7, 'bbox': box, 'area': 2500.0, 'iscrowd': 0}]
    scene = annotations(true, 5, (7,))
    scene['categories'][0]['name'] = 'x' * 400
    evaluation = evaluate(scene, [{'image_id': 1, 'category_id': 7, 'bbox': box, 'score': 0.9}])
    assert max(map(len, class_table(evaluation).splitlines())) < 120

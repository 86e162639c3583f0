from __future__ import annotations

import pytest

from ghost_det.evaluation.coco import EVALUATOR, REFERENCE, UNDEFINED, evaluate
from ghost_det.evaluation.errors import analyse
from ghost_det.evaluation.tables import class_table, error_table, figure_table, notes
from tests.scenes import annotations

from .test_errors import DOG, PERSON, found, true

SMALL = [0.0, 0.0, 8.0, 8.0]


def test_undefined_figures_are_explained() -> None:
    evaluation = evaluate(annotations([true(box=SMALL)], 2, (PERSON, DOG)), [found(box=SMALL)])
    assert evaluation.figures['mAP_m'] == evaluation.figures['AR_l@100'] == UNDEFINED
    table = figure_table([evaluation])
    assert '-1' not in table and '| mAP_m    | -    ' in table and '| mAP_s    | 1.000' in table
    assert 'medium' in table and 'not counted: class 2' in table and 'small' not in table
    assert '| class 2 | 0     | -     ' in class_table(evaluation) and '-1' not in class_table(evaluation)
    assert len(notes(evaluation)) == 3


@pytest.mark.parametrize('evaluator', sorted({EVALUATOR, REFERENCE}))
def test_missing_detections_and_missing_ground_truth_are_explained(evaluator: str) -> None:
    evaluation = evaluate(annotations([true(box=SMALL)], 2, (PERSON,)), [], evaluator=evaluator)
    expected = [0, 0, 0, UNDEFINED]
    assert [evaluation.figures[name] for name in ('mAP', 'mAP_s', 'AR@1', 'mAP_m')] == expected
    assert 'All 0' in figure_table([evaluation])
    empty = annotations([], 2, (PERSON,))
    evaluation = evaluate(empty, [], evaluator=evaluator)
    assert set(evaluation.figures.values()) == {UNDEFINED}
    table = figure_table([evaluation])
    assert 'no figure is defined' in table and 'All 0' not in table
    assert 'no ground truth' in error_table(analyse(empty, []))


def test_confused_classes_are_listed_and_long_names_cut() -> None:
    truth = annotations([true(), true(image=6)], 2, (PERSON, DOG))
    detections = [found(DOG), found(DOG, image=6)]
    assert 'class 1 found as class 2: 2 of 2 boxes (score from 0.3)' in error_table(
        analyse(truth, detections)
    )
    truth['categories'][0]['name'] = 'x' * 400
    assert max(map(len, class_table(evaluate(truth, detections)).splitlines())) < 120

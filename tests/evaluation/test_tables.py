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
    assert 'no ground truth of this size' in table and 'not counted: class 2' in table
    assert '| class 2 | 0     | -     ' in class_table(evaluation) and '-1' not in class_table(evaluation)
    assert len(notes(evaluation)) == 2


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


def test_long_names_are_cut() -> None:
    truth = annotations([true()], 1, (PERSON,))
    truth['categories'][0]['name'] = 'x' * 400
    assert max(map(len, class_table(evaluate(truth, [found()])).splitlines())) < 120

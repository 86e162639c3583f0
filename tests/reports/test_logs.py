from __future__ import annotations

import pytest

from ghost_det.reports.logs import curves, training_seconds


def test_curves_of_iterations_and_long_ones_are_kept_short() -> None:
    rows = [{'loss': 1.0, 'iter': n, 'step': n, 'lr': 0.1, 'time': 0.5} for n in range(10, 10_010, 10)]
    rows.insert(500, {'coco/bbox_mAP': 0.2, 'step': 0})  # as mmengine counts epochs in a loop of iterations
    rows.append({'coco/bbox_mAP': 0.3, 'step': 0, 'coco/bbox_mAP_50': -1.0})
    found = curves(rows, epochs=False)
    assert [each['step'] for each in found['mAP']] == [5000, 10_000] and found['unit'] == 'iteration'
    assert len(found['loss']) <= 400 and found['loss'][-1][0] == 10_000
    assert training_seconds(rows) == pytest.approx(5000)
    assert found['mAP'][1] == {'step': 10_000, 'mAP': 0.3, 'mAP_50': None, 'mAP_75': None}

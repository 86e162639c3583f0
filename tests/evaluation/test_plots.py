from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ghost_det.evaluation.coco import UNDEFINED, evaluate
from ghost_det.evaluation.errors import analyse
from ghost_det.evaluation.plots import draw_all
from tests.scenes import annotations

from .test_errors import found, true


@pytest.mark.parametrize('classes', [0, 3, 26])
def test_pictures_of_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    boxes = [true(category) for category in range(1, classes + 1)]
    truth = annotations(boxes, 1, tuple(range(1, max(classes, 1) + 1)))
    truth['categories'][0]['name'] = r'$\frac$'  # which matplotlib would take for mathematics
    detections = [found(category) for category in range(1, classes + 1, 2)]
    evaluation, analysis = evaluate(truth, detections), analyse(truth, detections)
    drawn = draw_all(evaluation, analysis, tmp_path)
    assert set(drawn) == {'pr_curves', 'confusion', 'errors'}
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in drawn.values())
    assert {path.name for path in tmp_path.iterdir()} == {f'{name}.png' for name in drawn}
    assert (analysis.ap == UNDEFINED) is (classes == 0)
    assert np.trace(analysis.confusion) == len(detections)

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

pytest.importorskip('mmdet')

from ghost_det.deploy.torch_detector import TorchDetector
from ghost_det.errors import UserError

from ..demo.torch_files import save_torch
from .settled import canvases


def test_a_timed_run_finds_what_a_call_finds(tmp_path: Path) -> None:
    detector = TorchDetector(*map(str, save_torch(tmp_path)))
    image = canvases(1)[0]
    wanted = detector(image)
    begun = perf_counter()
    found, times = detector.timed(image)
    whole = perf_counter() - begun
    assert len(found) > 0
    for name in ('boxes', 'scores', 'labels'):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert list(times) == ['prepare', 'network'] and min(times.values()) > 0
    assert 0.5 * whole < sum(times.values()) < whole
    assert times['network'] > times['prepare']
    with pytest.raises(UserError, match='the transform Resize of the pipeline fails'):  # for the demo's page
        detector.timed(np.zeros((2, 3000, 3), np.uint8))

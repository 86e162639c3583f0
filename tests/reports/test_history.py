from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.logging import MessageHub

from ghost_det.reports.history import add_evaluation, make_curves, training_seconds


def test_long_curves_of_iterations_are_averaged() -> None:
    hub = MessageHub('test_long_curves')
    runner = SimpleNamespace(message_hub=hub, cfg=SimpleNamespace(train_cfg={'max_iters': 5010}), iter=5010)
    for step in range(10, 5010):  # of the first ten steps nothing is known
        hub.update_scalar('train/loss', float(step))
        hub.update_scalar('train/lr', 0.1)
        hub.update_scalar('train/time', 0.5)
    for runner.iter, figure in ((5000, 0.2), (5010, 0.3), (5010, 0.4)):
        add_evaluation(
            runner, {f'coco/bbox_{name}': figure for name in ('mAP', 'mAP_75')} | {'coco/bbox_mAP_50': -1}
        )
    found = make_curves(runner)
    assert found['unit'] == 'iteration' and 380 < len(found['loss']) <= 400
    steps, losses, rates = np.array(found['loss']).T
    assert steps[-1] == 5010 and set(np.diff(steps)) == {12, 13}
    np.testing.assert_allclose(losses[1:], (steps[1:] + steps[:-1] - 1) / 2)  # of the steps up to each
    assert set(rates.round(9)) == {0.1}
    assert training_seconds(runner) == pytest.approx(2500)
    assert found['mAP'] == [
        {'step': 5000, 'mAP': 0.2, 'mAP_50': None, 'mAP_75': 0.2},
        {'step': 5010, 'mAP': 0.4, 'mAP_50': None, 'mAP_75': 0.4},  # evaluated again
    ]

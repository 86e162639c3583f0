"""``init_cfg`` of the networks in configs: published weights are loaded completely or not at all."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit
from mmengine.runner import CheckpointLoader

from ghost_det.engine.networks import GhostNet, GhostNetV2
from ghost_det.errors import UserError
from tests.weights.hub import Hub
from tests.weights.test_load import CLASSIFIER, holds, hub, timms

__all__ = ['hub']
PRETRAINED = dict(type='Pretrained', checkpoint='ghost://ghostnet_100')


class Detector(BaseModule):
    def __init__(self, **backbone: Any) -> None:
        super().__init__()
        self.backbone = GhostNet(width=0.5, **backbone)


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    collect = logging.Handler()
    collect.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    logger.addHandler(collect)
    yield lines
    logger.removeHandler(collect)


@pytest.mark.parametrize(
    'init_cfg',
    [
        PRETRAINED,
        [{**PRETRAINED, 'type': PretrainedInit}],
        [PRETRAINED, dict(type='Constant', val=0.5, layer='Conv2d')],
        {**PRETRAINED, 'prefix': '', 'map_location': 'cpu', 'partial': True},
    ],
)
def test_init_cfg_loads_every_tensor_and_logs_it(hub: Hub, init_cfg: Any, log: list[str]) -> None:
    detector = Detector(init_cfg=init_cfg)
    detector.init_weights()
    assert holds(detector.backbone, timms('ghostnet_050'))
    (line,) = (line for line in log if 'tensors from' in line)
    assert line.startswith('GhostNet: 502 of 502 tensors from ghost://ghostnet_100 (sha256 ')
    assert line.endswith('classifier left out: 10')


def test_weights_that_do_not_fit_stop_it(hub: Hub) -> None:
    for kind in ('Pretrained', 'mmengine.Pretrained', PretrainedInit):
        model = GhostNetV2(width=0.5, init_cfg={**PRETRAINED, 'type': kind})
        with pytest.raises(UserError, match='does not fit GhostNetV2 of width 0.5'):
            model.init_weights()
    with pytest.raises(UserError, match="name them in the backbone's init_cfg"):  # of another network
        CheckpointLoader.load_checkpoint('ghost://ghostnet_100', map_location='cpu')
    for init_cfg in ('ghost://ghostnet_100', [dict(checkpoint='x')]):
        with pytest.raises(ValueError, match='expected dict.* or None'):
            GhostNet(width=0.5, init_cfg=init_cfg).init_weights()


def test_a_shallow_backbone_leaves_the_deeper_stages_out(hub: Hub, log: list[str]) -> None:
    detector = Detector(init_cfg=PRETRAINED, out_indices=(0, 1))
    detector.init_weights()
    state = timms('ghostnet_050')
    deeper = sum(key.startswith(tuple(f'blocks.{i}.' for i in (5, 6, 7, 8))) for key in state)
    count = 512 - CLASSIFIER - deeper
    assert holds(detector.backbone, state)
    (line,) = (line for line in log if 'tensors from' in line)
    assert line.startswith(f'GhostNet: {count} of {count} tensors')
    assert line.endswith(f'; deeper stages left out: {deeper}; classifier left out: 10')


def test_partial_loads_what_fits_and_reports_the_rest(hub: Hub, log: list[str]) -> None:
    state = timms('ghostnet_050')
    detector = Detector(init_cfg={**PRETRAINED, 'partial': True}, num_classes=20, dw_size=5)
    before = copy.deepcopy(detector.backbone.state_dict())
    detector.init_weights()
    other = {key for key, value in before.items() if value.shape != state[key].shape}
    assert len(other) == 2 + 32 and all('cheap_operation' in key or 'classifier' in key for key in other)
    assert holds(detector.backbone, {key: (before if key in other else state)[key] for key in before})
    (line,) = (line for line in log if 'tensors from' in line)
    assert f'GhostNet: {512 - 34} of 512 tensors from ' in line
    assert '; NOT loaded: blocks.0.0.ghost1.cheap_operation.0.weight: expected (4, 1, 5, 5), got (4' in line

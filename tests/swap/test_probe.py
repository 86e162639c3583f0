from __future__ import annotations

import pytest
import torch

from ghost_det.config.load import load_config
from ghost_det.config.query import input_size
from ghost_det.swap.flops import FlopCounterMode
from ghost_det.swap.probe import build_detector, complexity, count
from tests.conftest import ROOT


@pytest.mark.parametrize('name', ['faster-rcnn_ghostnet_fpn', 'gfl_ghostnet_ghostpan_lite'])
def test_parts_add_up(name: str) -> None:
    model = load_config(f'ghost_det::{name}.py').model
    detector = build_detector(model)
    parts = complexity(detector, 96, 128)
    assert sum(parameters for parameters, _ in parts.values()) == sum(
        p.numel() for p in detector.parameters()
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.backbone(torch.zeros(1, 3, 96, 128))
    assert parts['backbone'][1] == counter.get_total_flops() // 2 > 0
    assert all(macs > 0 for _, macs in parts.values())
    dense = count(model, 96, 128)
    assert dense.keys() == parts.keys()
    for part in set(parts) - {'backbone'}:  # which `count` folds
        assert dense[part][0] == parts[part][0] and dense[part][1] in (parts[part][1], None)
    assert [part for part, (_, macs) in dense.items() if macs is None] == ['roi_head'] * ('roi_head' in parts)


@pytest.mark.parametrize(
    ('config', 'size'),
    [
        (str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'), (320, 320)),
        (str(ROOT / 'configs/retinanet_ghostnet_fpn.py'), (800, 1344)),
        ('mmdet::ssd/ssd300_coco.py', (300, 300)),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', (800, 1333)),
    ],
)
def test_the_config_s_own_size(config: str, size: tuple[int, int]) -> None:
    assert input_size(load_config(config)) == size

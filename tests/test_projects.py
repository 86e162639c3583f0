"""Stand-ins for other people's projects: what their configs have that those of MMDetection do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import Tensor, nn

from ghost_det.config.load import load_config
from ghost_det.config.overrides import use_pretrained
from ghost_det.engine.train import fetch_weights, starts_from_detector
from ghost_det.errors import UserError
from ghost_det.swap.swap import swap

ATSS = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
SMALL = dict(
    backbone=dict(depth=18, base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=1),
)


@MODELS.register_module()
class WeighedFPN(FPN):
    """A neck with a weight for each cell of its first map, and so only for images of 1024 pixels."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.weights = nn.Parameter(torch.ones(128, 128))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *others = super().forward(maps)
        return (first * self.weights, *others)


@MODELS.register_module()
class Filtered(BaseModule):
    """A backbone that halves the images for another."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)

    def forward(self, images: Tensor) -> Any:
        return self.backbone(images / 2)


def atss(**model: Any) -> Any:
    cfg = load_config(ATSS)
    cfg.merge_from_dict({'model': SMALL})
    cfg.merge_from_dict({'model': model})
    return cfg


@pytest.fixture
def wrapped() -> Any:
    """A config whose detector is a part of its model, as behind a network that enhances images."""
    cfg = atss()
    cfg.model = Config(dict(type='Enhanced', detector=cfg.model))._cfg_dict
    return cfg


def test_a_neck_for_images_of_one_size_is_swapped() -> None:
    swapped = swap(atss(neck=dict(type='WeighedFPN')), 'GhostNet', pretrained='none')
    assert swapped.config.model.neck.in_channels == [24, 40, 112, 160]
    assert not any('checked only up to the neck' in note for note in swapped.notes), swapped.notes


def test_the_line_to_add_is_printed_for_a_part_that_no_import_registers() -> None:
    with pytest.raises(UserError, match=r'FrequencyFPN; .* custom_imports = dict\(imports='):
        swap(atss(neck=dict(type='FrequencyFPN')), 'GhostNet')


def test_a_note_says_that_a_backbone_around_another_is_gone() -> None:
    cfg = atss()
    cfg.model.backbone = dict(type='Filtered', backbone=cfg.model.backbone)
    swapped = swap(cfg, 'GhostNet', pretrained='none')
    assert 'dropped with the old backbone: what Filtered does around its ResNet' in swapped.notes
    assert 'backbone' not in swapped.config.model.backbone


def test_the_backbone_of_a_wrapped_detector_starts_from_scratch(
    wrapped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = swap(wrapped, 'GhostNet').config
    fetched: list[str] = []
    monkeypatch.setattr('ghost_det.engine.train.locate', lambda name: fetched.append(name) or Path(name))
    monkeypatch.setattr('ghost_det.engine.train.read_tensors', lambda path: {})
    fetch_weights(swapped)
    assert fetched == ['ghost://ghostnet_100']
    use_pretrained(swapped, 'none')
    backbone = swapped.model.detector.backbone
    assert backbone.init_cfg is None and backbone.frozen_stages == -1 and not backbone.norm_eval


def test_a_checkpoint_of_a_complete_wrapped_detector_is_recognised(wrapped: Any, tmp_path: Path) -> None:
    wrapped.load_from = str(tmp_path / 'detector.pth')
    for part in ('backbone', 'neck'):
        torch.save({f'detector.{part}.conv1.weight': torch.zeros(1)}, wrapped.load_from)
        assert starts_from_detector(wrapped, 'wrapped.py') is (part == 'backbone')

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghost_det.errors import UserError
from ghost_det.models import GhostNet, GhostNetV2, GhostNetV3, GhostPAN, RepGhostNet
from ghost_det.models.fuse import SplitBottleneck, optimize, rewrite

from .contract import randomise, same

CONFIGS = Path(__file__).parents[2] / 'configs'
BACKBONES: list[dict[str, Any]] = [
    dict(type='GhostNet', width=0.5),
    dict(type='GhostNet', width=0.5, ratio=3, dw_size=5),
    dict(type='GhostNetV2', width=0.5),
    dict(type='GhostNetV3', width=0.5),
    dict(type='RepGhostNet', width=0.5),
    dict(type='GhostNetV3', width=0.5, norm_cfg=dict(type='GN', num_groups=2)),
    dict(type='GhostResNet', depth=18),
    dict(type='ResNet', depth=50, deep_stem=True),
    dict(type='CSPNeXt', deepen_factor=0.33, widen_factor=0.25),
]


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.fixture(autouse=True)
def registered() -> None:
    register_all_modules(init_default_scope=False)


@pytest.mark.parametrize('cfg', BACKBONES, ids=lambda cfg: '-'.join(map(str, cfg.values())))
def test_optimized_backbones_give_the_same_maps(cfg: dict[str, Any]) -> None:
    model = randomise(MODELS.build({**cfg, 'type': f'mmdet.{cfg["type"]}'}))
    model.eval()  # which returns nothing in mmdet's ResNet
    x = torch.rand(2, 3, 75, 64)
    with torch.no_grad():
        want = model(x)
        assert optimize(model) is model
        got = model(x)
        assert same(want, got, 1e-4)
        assert got[-1].is_contiguous(memory_format=torch.channels_last)
        assert same(got, optimize(model)(x), 0)
    # A ghost convolution's intrinsic features are needed without the norm, too.
    assert (norms(model) > 0) is (cfg['type'] == 'GhostResNet')


@pytest.mark.parametrize('config', ['retinanet_ghostnet_ghostpan_lite', 'faster-rcnn_ghostnet_fpn'])
def test_detectors_keep_their_outputs(config: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    cfg.model.backbone.init_cfg = None
    model = randomise(MODELS.build(cfg.model)).eval()
    x = torch.rand(1, 3, 96, 128)

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            feats = model.extract_feat(x)
            head = model.bbox_head if model.with_bbox and hasattr(model, 'bbox_head') else model.rpn_head
            return [*feats, *(level for levels in head(feats) for level in levels)]

    want = outputs()
    optimize(model)
    assert same(want, outputs(), 1e-4)
    assert norms(model) == 0


def test_levels_that_share_a_convolution_get_one_each() -> None:
    cfg = Config.fromfile(CONFIGS / 'retinanet_ghostnet_fpn_lite.py')
    head = randomise(MODELS.build(cfg.model.bbox_head)).eval()
    assert head.cls_convs[0][0].conv is head.cls_convs[1][0].conv
    optimize(head)
    assert head.cls_convs[0][0].conv is not head.cls_convs[1][0].conv


@pytest.mark.parametrize('order', [('conv', 'act', 'norm'), ('norm', 'conv', 'act')])
def test_a_norm_that_does_not_follow_its_convolution_stays(order: tuple[str, ...]) -> None:
    from mmcv.cnn import ConvModule

    block = ConvModule(4, 4, 3, norm_cfg=dict(type='BN'), order=order)
    model = randomise(nn.Sequential(block, nn.Conv2d(4, 8, 1), nn.ReLU(), nn.BatchNorm2d(8))).eval()
    x = torch.randn(1, 4, 8, 8)
    want = model(x)
    assert same([want], [optimize(model)(x)], 1e-5)
    assert norms(model) == 2


def test_a_computed_weight_stays() -> None:
    for wrap in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        model = randomise(nn.Sequential(wrap(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4))).eval()
        x = torch.randn(1, 4, 8, 8)
        want = model(x)
        assert same([want], [optimize(model)(x)], 1e-5) and norms(model) == 1


def test_a_model_in_training_is_refused_and_unchanged() -> None:
    model = MODELS.build(dict(type='mmdet.GhostNetV3', width=0.5))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match='training mode'):
        optimize(model)
    with pytest.raises(UserError, match='threads is 0'):
        optimize(model.eval(), threads=0)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


SMALL: dict[str, Any] = dict(width=0.5)


@pytest.mark.parametrize(
    ('network', 'settings'),
    [
        (GhostNet, dict(width=0.5)),
        (GhostNet, dict(width=0.35, ratio=5, dw_size=1)),
        (GhostNet, dict(width=0.5, dw_size=4, act_layer=nn.Hardswish)),
        (GhostNetV2, dict(width=0.5, ratio=3)),
        (GhostNetV3, dict(width=0.5, ratio=3, out_indices=(1, 2))),
        (RepGhostNet, dict(width=0.5, out_indices=(0, 2))),
    ],
)
def test_rewritten_networks_give_the_same_maps(network: type[GhostNet], settings: dict[str, Any]) -> None:
    model = randomise(network(**settings)).eval()
    sizes = [(1, 32, 64), (2, 75, 47)]
    inputs = [torch.rand(n, 3, h, w) for n, h, w in sizes]
    with torch.no_grad():
        want = [model(x) for x in inputs]
        assert rewrite(model) is model
        for x, maps in zip(inputs, want):
            assert same(maps, model(x), 1e-5)
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    split = sum(isinstance(module, SplitBottleneck) for module in model.modules())
    assert split == (0 if network is RepGhostNet else sum(map(len, model.blocks)))


def test_the_classifier_and_the_neck_stay_the_same() -> None:
    x = torch.rand(1, 3, 64, 64)
    classifier = randomise(GhostNet(num_classes=5, **SMALL)).eval()
    neck = randomise(GhostPAN([12, 20, 56, 80], out_channels=16, num_outs=5)).eval()
    maps = [torch.rand(1, c, s, s) for c, s in zip(neck.in_channels, (32, 16, 8, 4))]
    with torch.no_grad():
        want = [classifier(x), *neck(maps)]
        got = [rewrite(classifier)(x), *rewrite(neck)(maps)]
    assert same(want, got, 1e-5)
    assert any(isinstance(module, SplitBottleneck) for module in neck.modules())


def concatenations(model: nn.Module) -> int:
    program = torch.export.export(model, (torch.rand(1, 3, 64, 64),))
    return sum(node.target is torch.ops.aten.cat.default for node in program.graph.nodes)


def test_large_maps_are_concatenated_once_a_block() -> None:
    model = randomise(GhostNet(out_indices=(0,))).eval()
    assert concatenations(model) == 6
    assert concatenations(rewrite(model)) == 3

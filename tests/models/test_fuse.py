from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from ghost_det.errors import UserError
from ghost_det.models import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet
from ghost_det.models.fuse import SplitBottleneck, optimize, rewrite
from tests.conftest import ROOT

from .contract import randomise

GROUP = partial(nn.GroupNorm, 2)
RESNETS = [dict(type='GhostResNet', depth=18), dict(type='ResNet', depth=50, deep_stem=True)]
CSP = dict(type='CSPNeXt', deepen_factor=0.33, widen_factor=0.25)


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.fixture(autouse=True)
def registered() -> None:
    register_all_modules(init_default_scope=False)


@pytest.mark.parametrize(
    ('build', 'norms', 'split'),
    [
        (lambda: GhostNet(width=0.35, ratio=5, dw_size=1), 0, 16),
        (lambda: GhostNet(width=0.5, dw_size=4, act_layer=nn.Hardswish), 0, 16),
        (lambda: GhostNet(width=0.5, num_classes=5), 0, 16),
        (lambda: GhostNetV2(width=0.5, ratio=3), 0, 16),
        (lambda: GhostNetV3(width=0.5, ratio=3, out_indices=(1, 2)), 0, 11),
        (lambda: RepGhostNet(width=0.5, out_indices=(0, 2)), 0, 0),
        (lambda: GhostNet(width=0.5, norm_layer=GROUP), 0, 0),
        # A ghost convolution's intrinsic features are needed without the norm, too.
        (lambda: MODELS.build({**RESNETS[0], 'type': 'mmdet.GhostResNet'}), 19, 0),
        (lambda: MODELS.build({**RESNETS[1], 'type': 'mmdet.ResNet'}), 0, 0),
        (lambda: MODELS.build({**CSP, 'type': 'mmdet.CSPNeXt'}), 0, 0),
    ],
)
def test_optimized_networks_give_the_same_maps(build: Callable[[], Any], norms: int, split: int) -> None:
    model = randomise(build())
    model.eval()  # which returns nothing in mmdet's ResNet
    inputs = [torch.rand(1, 3, 32, 64), torch.rand(2, 3, 75, 47)]
    with torch.no_grad():
        want = [model(x) for x in inputs]
        assert optimize(model) is model
        got = [model(x) for x in inputs]
        assert_close(got, want, atol=1e-4, rtol=1e-4)
        last = got[0][-1]
        assert last.dim() < 4 or last.is_contiguous(memory_format=torch.channels_last)
        assert_close(optimize(model)(inputs[0]), got[0], atol=0, rtol=0)
    assert (count(model, _BatchNorm), count(model, SplitBottleneck)) == (norms, split)


@pytest.mark.parametrize(
    'config', ['gfl_ghostnet_ghostpan_lite', 'retinanet_ghostnet_fpn_lite', 'faster-rcnn_ghostnet_fpn']
)
def test_detectors_keep_their_outputs(config: str) -> None:
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
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
    assert_close(outputs(), want, atol=1e-4, rtol=1e-4)
    assert count(model, _BatchNorm) == 0


mmcvs = partial(ConvModule, 4, 4, 3, norm_cfg=dict(type='BN'))


@pytest.mark.parametrize(
    'layers',
    [
        lambda: [mmcvs(order=('conv', 'act', 'norm'))],
        lambda: [mmcvs(order=('norm', 'conv', 'act'))],
        lambda: [nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)],
        lambda: [nn.utils.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)],
        lambda: [nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)],
    ],
)
@pytest.mark.filterwarnings('ignore:.*weight_norm')
def test_norms_not_behind_a_convolution_or_of_a_computed_weight_stay(layers: Callable[[], Any]) -> None:
    model = randomise(nn.Sequential(*layers())).eval()
    x = torch.randn(1, 4, 8, 8)
    want = model(x)
    assert_close(optimize(model)(x), want, atol=1e-5, rtol=1e-5)
    assert count(model, _BatchNorm) == 1


def test_a_model_in_training_is_refused_and_unchanged() -> None:
    model = GhostNetV3(width=0.5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match='training mode'):
        optimize(model)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.skipif(torch.__version__ < '2.6', reason=f'torch {torch.__version__}: exports need 2.6')
def test_large_maps_are_concatenated_once_a_block() -> None:
    model = randomise(GhostNet(out_indices=(0,))).eval()
    for change, expected in ((lambda same: same, 6), (rewrite, 3)):
        program = torch.export.export(change(model), (torch.rand(1, 3, 64, 64),))
        assert sum(node.target is torch.ops.aten.cat.default for node in program.graph.nodes) == expected

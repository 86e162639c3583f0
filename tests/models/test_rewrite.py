from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghost_det import GhostNet, GhostNetV2, GhostNetV3, GhostPAN, RepGhostNet
from ghost_det.models.rewrite import SplitBottleneck, rewrite

from .contract import randomise, same

SMALL: dict[str, Any] = dict(width=0.5)


@pytest.mark.parametrize(
    ('network', 'settings'),
    [
        (GhostNet, dict(width=0.5)),
        (GhostNet, dict(width=1.0)),
        (GhostNet, dict(width=1.3)),
        (GhostNet, dict(width=0.5, ratio=3)),
        (GhostNet, dict(width=0.35, ratio=5, dw_size=1)),
        (GhostNet, dict(width=0.5, dw_size=4)),
        (GhostNet, dict(width=0.5, dw_size=5, act_cfg=dict(type='HSwish'))),
        (GhostNetV2, dict(width=0.5)),
        (GhostNetV2, dict(width=1.3, out_indices=(0, 1))),
        (GhostNetV2, dict(width=0.5, ratio=3)),
        (GhostNetV3, dict(width=0.5)),
        (GhostNetV3, dict(width=1.0, ratio=3, out_indices=(1, 2))),
        (RepGhostNet, dict(width=0.5)),
        (RepGhostNet, dict(width=1.3, out_indices=(0, 2))),
    ],
)
def test_the_maps_stay_the_same(network: type[GhostNet], settings: dict[str, Any]) -> None:
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


def test_a_deployed_or_rewritten_network_can_be_rewritten() -> None:
    model = randomise(GhostNetV3(**SMALL)).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want = model(x)
        model.switch_to_deploy()
        assert same(want, rewrite(rewrite(model))(x), 1e-5)


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


def test_blocks_with_other_norms_stay() -> None:
    model = GhostNet(norm_cfg=dict(type='GN', num_groups=2), **SMALL).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want = model(x)
        assert same(want, rewrite(model)(x), 0)
    assert not any(isinstance(module, SplitBottleneck) for module in model.modules())


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(AssertionError):
        rewrite(GhostNet(**SMALL))


def concatenations(model: nn.Module) -> int:
    program = torch.export.export(model, (torch.rand(1, 3, 64, 64),))
    return sum(node.target is torch.ops.aten.cat.default for node in program.graph.nodes)


def test_large_maps_are_concatenated_once_a_block() -> None:
    model = randomise(GhostNet(out_indices=(0,))).eval()
    assert concatenations(model) == 6
    assert concatenations(rewrite(model)) == 2  # the first block, of 16 channels, needs none

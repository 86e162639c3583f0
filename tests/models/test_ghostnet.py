from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from ghost_det.models import GhostNet, GhostNetV2, GhostNetV3, RepGhostNet
from ghost_det.models.ghostnet import GHOSTNET_TABLE, REPGHOST_TABLE

from .contract import BackboneContract, randomise


class TestGhostNet(BackboneContract):
    network = GhostNet


class TestGhostNetV2(BackboneContract):
    network = GhostNetV2


class TestGhostNetV3(BackboneContract):
    network = GhostNetV3


class TestRepGhostNet(BackboneContract):
    network = RepGhostNet
    ratios = (2,)


@pytest.mark.parametrize('network', [GhostNetV2, GhostNetV3])
def test_the_gate_is_in_the_first_ghost_module_from_the_third_bottleneck_on(network: type[GhostNet]) -> None:
    blocks = [block for group in network().blocks for block in group]
    assert [block.ghost1.short_conv is not None for block in blocks] == [False] * 2 + [True] * 14
    assert all(block.ghost2.short_conv is None for block in blocks)


def test_frozen_stages_stay_frozen_when_folded() -> None:
    model = GhostNetV3(width=0.5, frozen_stages=1)
    model.switch_to_deploy()
    assert not any(p.requires_grad for group in model.blocks[:3] for p in group.parameters())
    assert all(p.requires_grad for group in model.blocks[3:] for p in group.parameters())


def test_branches_of_another_norm_are_not_folded() -> None:
    for network in (GhostNetV3, RepGhostNet):
        model = network(width=0.5, norm_layer=partial(nn.GroupNorm, 2))
        with pytest.raises(ValueError, match='GroupNorm cannot be folded'):
            model.switch_to_deploy()


def test_tables_differ_only_in_expansions() -> None:
    for ours, theirs in zip(sum(REPGHOST_TABLE, ()), sum(GHOSTNET_TABLE, ()), strict=True):
        assert ours._replace(expansion=0) == theirs._replace(expansion=0)
    # RepGhost, table 2, column of middle channels.
    assert [row.expansion for row in sum(REPGHOST_TABLE, ())] == [
        *(8, 24, 36, 36, 60, 120, 100, 120, 120, 240, 336, 336),
        *(480, 480, 480, 480),
    ]


def test_a_ghost_of_repghost_is_added() -> None:
    module = randomise(RepGhostNet(width=0.5).blocks[3][0].ghost1).eval()
    x = torch.rand(1, module.primary_conv[0].in_channels, 6, 6)
    intrinsic = module.primary_conv(x)
    conv, bn = module.cheap_operation
    added = bn(nn.functional.conv2d(intrinsic, conv.weight, padding=1, groups=intrinsic.shape[1]))
    assert torch.allclose(module(x), torch.relu(added + module.fusion_bn[0](intrinsic)), atol=1e-6)


def test_branches_with_plain_norms_are_folded_too() -> None:
    for network in (GhostNetV3, RepGhostNet):
        model = randomise(network(width=0.5, norm_layer=partial(nn.BatchNorm2d, affine=False))).eval()
        x = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            want = model(x)
            model.switch_to_deploy()
            for one, other in zip(want, model(x), strict=True):
                assert torch.allclose(one, other, atol=1e-4, rtol=1e-5)

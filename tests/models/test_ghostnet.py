"""What every Ghost network must do."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from ghost_det.models import NETWORKS, GhostNet, GhostNetV2, GhostNetV3, RepGhostNet
from ghost_det.models.bottleneck import start_as_shortcuts

from .contract import randomise

GROUP_NORM = partial(nn.GroupNorm, 2)


@pytest.fixture(params=NETWORKS.values())
def network(request: pytest.FixtureRequest) -> partial[GhostNet]:
    """Each network, with small channels."""
    return partial(request.param, width=0.5)


def learns(model: nn.Module) -> bool:
    """Propagate back from all maps; tell whether every parameter has a gradient."""
    maps = model(torch.rand(4, 3, 64, 64).requires_grad_())
    sum((m.square().mean() for m in maps), torch.zeros(())).backward()
    return all(p.grad is not None for p in model.parameters())


# Channels at the ends of the stages with strides 4, 8, 16, 32.
@pytest.mark.parametrize(
    ('width', 'channels'), [(0.35, (8, 16, 40, 56)), (1.0, (24, 40, 112, 160)), (1.1, (28, 44, 124, 176))]
)
def test_every_width_has_its_channels_and_strides(
    network: partial[GhostNet], width: float, channels: tuple[int, ...]
) -> None:
    with torch.device('meta'):
        model = network(width=width)
        maps = model(torch.rand(2, 3, 64, 96))
    assert (model.out_channels, model.out_strides) == (channels, (4, 8, 16, 32))
    assert [m.shape[1:] for m in maps] == [(c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32))]


@pytest.mark.parametrize(('height', 'width', 'dw_size'), [(32, 32, 1), (33, 47, 4), (161, 65, 5)])
def test_any_size_from_32_px_and_any_kernel(
    network: partial[GhostNet], height: int, width: int, dw_size: int
) -> None:
    model = network(dw_size=dw_size)
    for training in (False, True):
        maps = model.train(training)(torch.rand(2, 3, height, width))
        for feature, stride in zip(maps, model.out_strides, strict=True):
            assert feature.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))
            assert feature.isfinite().all()


@pytest.mark.parametrize('kind', [GhostNet, GhostNetV2])
def test_ratio_and_kernel_reach_every_module(kind: type[GhostNet]) -> None:
    with torch.device('meta'):
        blocks = [block for group in kind(ratio=4, dw_size=5).blocks for block in group]
    for ghost in (ghost for block in blocks for ghost in (block.ghost1, block.ghost2)):
        assert ghost.primary_conv[0].out_channels == math.ceil(ghost.oup / 4)
        assert ghost.cheap_operation[0].kernel_size == (5, 5)


@pytest.mark.parametrize(('deepest', 'groups'), [(0, 3), (2, 7)])
def test_nothing_is_built_behind_the_deepest_map(
    network: partial[GhostNet], deepest: int, groups: int
) -> None:
    model, deep = network(out_indices=(deepest,)), network().eval()
    assert len(model.blocks) == groups and learns(model)
    deep.load_state_dict({**deep.state_dict(), **model.state_dict()})
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.eval()(x)[0], deep(x)[deepest])


def test_last_blocks_are_the_first_ones_of_the_last_stage(network: partial[GhostNet]) -> None:
    model, complete = network(last_blocks=2), network().eval()
    complete.load_state_dict({**complete.state_dict(), **model.state_dict()})
    del complete.blocks[8][2:]
    x = torch.rand(1, 3, 64, 64)
    assert len(model.blocks[8]) == 2 and torch.equal(model.eval()(x)[-1], complete(x)[-1])
    assert len(network(last_blocks=0)(torch.rand(2, 3, 64, 64))) == 4


@pytest.mark.parametrize(('frozen', 'groups'), [(-1, 0), (0, 0), (2, 5), (4, 9)])
def test_frozen_stages_do_not_learn_and_keep_their_statistics(
    network: partial[GhostNet], frozen: int, groups: int
) -> None:
    model = network(frozen_stages=frozen).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    learns(model)
    optimizer.step()
    for key, value in model.state_dict().items():
        part = key.split('.')
        is_frozen = int(part[1]) < groups if part[0] == 'blocks' else frozen >= 0
        assert torch.equal(value, before[key]) is is_frozen, key
    model.switch_to_deploy()
    for position, group in enumerate(model.blocks):
        assert all(p.requires_grad is (position >= groups) for p in group.parameters())


def test_norm_eval_keeps_statistics_but_trains_weights(network: partial[GhostNet]) -> None:
    model = network(norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    assert learns(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if 'running' in k)
    model.eval().train()
    assert not any(m.training for m in model.modules() if isinstance(m, _BatchNorm))


def test_checkpointing_gives_the_same_gradients(network: partial[GhostNet]) -> None:
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = network(norm_layer=GROUP_NORM, with_cp=with_cp)
        assert learns(model)
        gradients.append([p.grad for p in model.parameters()])
    assert_close(*gradients, atol=1e-6, rtol=1e-6)


def test_norm_and_act_layer_make_every_norm_and_activation(network: partial[GhostNet]) -> None:
    kinds = {type(m) for m in network(norm_layer=GROUP_NORM, act_layer=nn.Hardswish).modules()}
    assert {nn.GroupNorm, nn.Hardswish} <= kinds and not {nn.BatchNorm2d, nn.ReLU} & kinds


def test_bottlenecks_can_start_as_their_shortcuts(network: partial[GhostNet]) -> None:
    model = network()
    start_as_shortcuts(model)
    block = model.blocks[7][0].eval()
    x = torch.rand(1, block.shortcut[0].in_channels, 4, 4)
    assert torch.equal(block(x), block.shortcut(x))


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        *(('width', value, f'width is {value!r}') for value in (0, float('nan'), '1.0', True)),
        *(('out_indices', value, 'expected some of 0 to 3, in rising') for value in ((0, 4), (), (1, 1), 3)),
        *(('frozen_stages', value, f'frozen_stages is {value}') for value in (5, -2, 1.0)),
        ('dw_size', 0, 'dw_size is 0'),
        ('last_blocks', 5, 'last_blocks is 5'),
        ('num_classes', 0, 'num_classes is 0'),
    ],
)
def test_arguments_out_of_range_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GhostNetV3(**{name: value})


def test_arguments_that_do_not_go_together_are_named() -> None:
    with pytest.raises(ValueError, match='with 3 in out_indices'):
        GhostNet(num_classes=10, out_indices=(0, 1))
    with pytest.raises(ValueError, match='ratio is 3'):
        RepGhostNet(ratio=3)
    for kind in (GhostNetV3, RepGhostNet):
        with pytest.raises(ValueError, match='GroupNorm cannot be folded'):
            kind(width=0.5, norm_layer=GROUP_NORM).switch_to_deploy()


@pytest.mark.skipif(torch.__version__ < '2.6', reason=f'torch {torch.__version__}: exports need 2.6')
@pytest.mark.filterwarnings('ignore:Converting a tensor')  # of sizes below 2, which a gate guards
def test_exported_models_are_the_same(network: partial[GhostNet]) -> None:
    export = pytest.importorskip('torch.export', reason='torch 2.0 has no torch.export').export
    model = randomise(network(out_indices=(0, 1))).eval()  # exporting takes its time
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert_close(export(model, (x,)).module()(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(('ratio', 'dw_size', 'affine'), [(4, 3, True), (2, 4, False)])
def test_deployed_networks_give_the_same_maps(
    network: partial[GhostNet], ratio: int, dw_size: int, affine: bool
) -> None:
    norm = partial(nn.BatchNorm2d, affine=affine)
    settings = dict(ratio=2 if network.func is RepGhostNet else ratio, dw_size=dw_size, norm_layer=norm)
    model, other = randomise(network(**settings)).eval(), network(**settings).eval()
    x = torch.rand(2, 3, 75, 64)
    with torch.no_grad():
        want = model(x)
        for each in (model, model, other):  # a second time changes nothing
            each.switch_to_deploy()
        other.load_state_dict(model.state_dict())
        assert_close(model(x), want, atol=1e-4, rtol=1e-4)
        assert_close(other(x), model(x), atol=0, rtol=0)
    assert not any('_rpr_' in key or 'fusion_bn' in key for key in model.state_dict())


def test_the_classifier_gives_logits_and_drops_features_only_in_training(network: partial[GhostNet]) -> None:
    model = network(num_classes=7, drop_rate=1.0)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.train()(x), model.classifier.bias.expand(2, 7))
    assert not torch.equal(model.eval()(x), model.classifier.bias.expand(2, 7))

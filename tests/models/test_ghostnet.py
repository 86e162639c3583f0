from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from ghost_det import GhostNet

# Channels at the ends of the stages of strides 4, 8, 16, 32.
CHANNELS = {
    0.5: (12, 20, 56, 80),
    1.0: (24, 40, 112, 160),
    1.1: (28, 44, 124, 176),
    1.3: (32, 52, 144, 208),
    1.6: (40, 64, 180, 256),
}


def randomise_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize('width', CHANNELS)
def test_contract_holds_for_every_width(width: float) -> None:
    model = GhostNet(width=width).eval()
    assert model.out_channels == CHANNELS[width]
    assert model.out_strides == (4, 8, 16, 32)
    maps = model(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(model.out_channels, model.out_strides)
    ]


@pytest.mark.parametrize(('height', 'width'), [(32, 32), (33, 47), (75, 100), (321, 65)])
def test_any_size_from_32_px(height: int, width: int) -> None:
    model = GhostNet(width=0.5)
    maps = model(torch.rand(2, 3, height, width))
    for feature, stride in zip(maps, model.out_strides):
        assert feature.shape[2:] == (math.ceil(height / stride), math.ceil(width / stride))
        assert feature.isfinite().all()


def test_the_classifier_has_the_papers_size() -> None:
    model = GhostNet(num_classes=1000).eval()
    assert sum(p.numel() for p in model.parameters()) == 5_182_508  # paper: 5.2 M
    assert len(model.state_dict()) == 512  # as the published file
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.rand(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert 141e6 <= counter.get_total_flops() / 2 <= 142e6  # paper: 141 M multiply-adds


def test_state_dict_keys_are_upstreams() -> None:
    keys = set(GhostNet(num_classes=1000).state_dict())
    for key in (
        'conv_stem.weight',
        'bn1.running_mean',
        'blocks.0.0.ghost1.primary_conv.0.weight',
        'blocks.1.0.conv_dw.weight',
        'blocks.3.0.se.conv_reduce.bias',
        'blocks.3.0.shortcut.3.running_var',
        'blocks.6.4.ghost2.cheap_operation.1.weight',
        'blocks.8.3.bn_dw.weight',
        'blocks.9.0.conv.weight',
        'blocks.9.0.bn1.weight',
        'conv_head.bias',
        'classifier.weight',
    ):
        assert (key in keys) is (key != 'blocks.8.3.bn_dw.weight'), key


def test_each_map_is_the_end_of_its_stage() -> None:
    model = randomise_norms(GhostNet(width=0.5)).eval()
    x = torch.rand(1, 3, 64, 64)
    expected, feature = [], model.act1(model.bn1(model.conv_stem(x)))
    for position, group in enumerate(model.blocks):
        feature = group(feature)
        if position in (2, 4, 6, 8):
            expected.append(feature)
    for got, want in zip(model(x), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(('deepest', 'groups'), [(0, 3), (1, 5), (2, 7), (3, 9)])
def test_nothing_is_built_behind_the_deepest_map(deepest: int, groups: int) -> None:
    model = GhostNet(width=0.5, out_indices=(deepest,))
    assert len(model.blocks) == groups
    whole = GhostNet(width=0.5)
    whole.load_state_dict({**whole.state_dict(), **model.state_dict()})
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.eval()(x)[0], whole.eval()(x)[deepest])
    for parameter in model.parameters():
        parameter.grad = None
    sum(m.sum() for m in model.train()(x)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages_do_not_learn_and_keep_their_statistics(frozen: int) -> None:
    model = GhostNet(width=0.5, frozen_stages=frozen).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    sum(m.square().mean() for m in model(torch.rand(4, 3, 64, 64).requires_grad_())).backward()
    optimizer.step()
    groups = {-1: 0, 0: 0, 1: 3, 2: 5, 3: 7, 4: 9}[frozen]
    for key, value in model.state_dict().items():
        part = key.split('.')
        is_frozen = int(part[1]) < groups if part[0] == 'blocks' else frozen >= 0
        changed = not torch.equal(value, before[key])
        assert changed is not is_frozen, key


def test_norm_eval_keeps_statistics_but_trains_weights() -> None:
    model = GhostNet(width=0.5, norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    sum(m.mean() for m in model(torch.rand(2, 3, 64, 64))).backward()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if 'running' in k)
    assert all(p.grad is not None for p in model.parameters())
    model.eval().train()
    assert not any(m.training for m in model.modules() if isinstance(m, _BatchNorm))


def test_checkpointing_gives_the_same_gradients() -> None:
    plain = GhostNet(width=0.5, norm_cfg=dict(type='GN', num_groups=2))
    saving = GhostNet(width=0.5, norm_cfg=dict(type='GN', num_groups=2), with_cp=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for model in (plain, saving):
        sum(m.square().mean() for m in model(x)).backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


@pytest.mark.parametrize(
    ('norm_cfg', 'kind'),
    [(dict(type='GN', num_groups=2), nn.GroupNorm), (dict(type='SyncBN'), nn.SyncBatchNorm)],
)
def test_norm_cfg_reaches_every_norm(norm_cfg: dict[str, object], kind: type[nn.Module]) -> None:
    model = GhostNet(width=0.5, norm_cfg=norm_cfg)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm | nn.GroupNorm)]
    assert norms and all(isinstance(m, kind) for m in norms)


def test_act_cfg_ratio_and_dw_size_reach_every_module() -> None:
    model = GhostNet(act_cfg=dict(type='HSwish'), ratio=4, dw_size=5)
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    for group in model.blocks:
        for block in group:
            for ghost in (block.ghost1, block.ghost2):
                assert ghost.primary_conv[0].out_channels == math.ceil(ghost.oup / 4)
                assert ghost.cheap_operation[0].kernel_size == (5, 5)
    assert [m.shape[1] for m in model(torch.rand(2, 3, 32, 64))] == list(model.out_channels)


def test_registered_in_mmdet_and_initialised_by_mmengine() -> None:
    model = MODELS.build(dict(type='mmdet.GhostNet', width=0.5, out_indices=(1, 3)))
    assert isinstance(model, GhostNet) and model.out_channels == (20, 80)
    model.init_weights()
    block = model.blocks[7][0].eval()
    x = torch.rand(1, block.shortcut[0].in_channels, 4, 4)
    assert torch.equal(block(x), block.shortcut(x))  # each starts as its shortcut alone
    own = GhostNet(width=0.5, init_cfg=dict(type='Constant', val=0.5, layer='Conv2d'))
    own.init_weights()
    assert (own.conv_stem.weight == 0.5).all() and (own.blocks[8][0].ghost2.primary_conv[1].weight == 1).all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(width=0), 'width is 0'),
        (dict(out_indices=(0, 4)), 'some of 0 to 3'),
        (dict(out_indices=()), 'some of 0 to 3'),
        (dict(out_indices=(2, 1)), 'in rising order'),
        (dict(out_indices=(1, 1)), 'in rising order'),
        (dict(frozen_stages=5), 'frozen_stages is 5'),
        (dict(num_classes=10, out_indices=(0, 1)), 'needs the whole trunk'),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GhostNet(**arguments)


def test_copied_pickled_and_traced_models_are_the_same() -> None:
    model = randomise_norms(GhostNet(width=0.5)).eval()
    x = torch.rand(1, 3, 64, 64)
    want = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.jit.trace(model, x)):
        for one, two in zip(want, other(x), strict=True):
            assert torch.allclose(one, two, atol=1e-6)

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import Tensor

from ghost_det.config.load import load_config
from ghost_det.models.gfl_head import GFLSepBNHead
from tests.conftest import ROOT

SIZES = (10, 5, 3, 2)
SHAPE: dict[str, Any] = dict(
    stacked_convs=2,
    reg_max=8,
    anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[5], strides=[8, 16, 32, 64]),
)


@pytest.fixture
def head() -> GFLSepBNHead:
    if not DefaultScope.check_instance_created('gfl_head'):
        DefaultScope.get_instance('gfl_head', scope_name='mmdet')
    cfg = load_config(ROOT / 'configs/gfl_ghostnet_ghostpan_lite.py').model
    built: GFLSepBNHead = MODELS.build(
        {**cfg.bbox_head, 'in_channels': 6, 'feat_channels': 8, 'num_classes': 3}
    )
    built.init_weights()
    return built


def maps(batch: int = 2) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(batch, 6, s, s) for s in SIZES)


def test_each_level_gives_logits_of_classes_and_of_four_distances(head: GFLSepBNHead) -> None:
    classes, distances = head(maps())
    assert [tuple(m.shape) for m in classes] == [(2, 3, s, s) for s in SIZES]
    assert [tuple(m.shape) for m in distances] == [(2, 4 * (head.reg_max + 1), s, s) for s in SIZES]
    assert torch.cat([m.detach().sigmoid().flatten() for m in classes]).mean() == pytest.approx(0.01, rel=0.1)


def test_levels_share_convolutions_and_nothing_of_their_norms(head: GFLSepBNHead) -> None:
    names = {name for name, _ in head.named_parameters()}
    convs = {name for name in names if name.endswith('conv.weight')}
    assert len(convs) == 2 * 2 * head.stacked_convs
    assert all(name.split('.')[1] == '0' for name in convs)
    assert len({name for name in names if name.endswith('bn.weight')}) == len(convs) * len(SIZES)
    for towers in (head.cls_convs, head.reg_convs):
        for tower in towers:
            assert tower[0].depthwise_conv.conv is towers[0][0].depthwise_conv.conv
            assert tower[0].pointwise_conv.conv.weight is towers[0][0].pointwise_conv.conv.weight
    assert head.cls_convs[0][0].depthwise_conv.conv is not head.reg_convs[0][0].depthwise_conv.conv


def test_statistics_of_a_level_are_of_that_level_alone(head: GFLSepBNHead) -> None:
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    head.train()(tuple(m * (i == 2) for i, m in enumerate(maps())))
    moved = {
        name.split('.')[1]
        for name, buffer in head.named_buffers()
        if name.endswith('running_mean') and not torch.equal(buffer, before[name])
    }
    assert moved == {'2'}


def test_a_checkpoint_of_it_loads_whole(head: GFLSepBNHead) -> None:
    state = head.state_dict()
    twin = GFLSepBNHead(num_classes=3, in_channels=6, feat_channels=8, **SHAPE)
    twin.load_state_dict(state)
    for ours, theirs in zip(head.eval()(maps()), twin.eval()(maps())):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize('kernel_size', [0, 4])
def test_an_even_kernel_is_refused(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f'kernel_size is {kernel_size}; an odd number'):
        GFLSepBNHead(kernel_size=kernel_size, num_classes=3, in_channels=6)

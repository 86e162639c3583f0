from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ghost_det.models.ghost_pan import GhostPAN

from .contract import randomise

CHANNELS = [6, 10, 14, 18]
STRIDES = (4, 8, 16, 32, 64, 128)


def small(**arguments: object) -> GhostPAN:
    return GhostPAN(CHANNELS, **{'out_channels': 8, 'num_outs': 5, 'start_level': 1, **arguments})


def maps(height: int, width: int, batch: int = 1) -> list[Tensor]:
    """A backbone's maps of an image of this size."""
    return [
        torch.rand(batch, c, math.ceil(height / s), math.ceil(width / s)) for c, s in zip(CHANNELS, STRIDES)
    ]


@pytest.mark.parametrize(
    ('height', 'width', 'start_level', 'num_outs'),
    [(32, 32, 0, 4), (33, 47, 0, 6), (321, 65, 1, 3), (75, 100, 3, 1), (75, 100, 3, 3)],
)
def test_each_map_halves_the_one_before(height: int, width: int, start_level: int, num_outs: int) -> None:
    neck = small(start_level=start_level, num_outs=num_outs)
    outs = neck(maps(height, width, batch=2))
    assert [tuple(out.shape) for out in outs] == [
        (2, 8, math.ceil(height / s), math.ceil(width / s))
        for s in STRIDES[start_level : start_level + num_outs]
    ]
    assert all(out.isfinite().all() for out in outs)


def test_kernel_norm_and_activation_reach_every_level() -> None:
    neck = small(kernel_size=3, norm_layer=partial(nn.GroupNorm, 2), act_layer=nn.LeakyReLU)
    kinds = {type(m) for m in neck.modules()}
    assert {nn.GroupNorm, nn.LeakyReLU} <= kinds and not {nn.BatchNorm2d, nn.ReLU} & kinds
    strided = [*neck.downsamples, *neck.extra_lvl_in_conv, *neck.extra_lvl_out_conv]
    blocks = [block for each in (*neck.top_down_blocks, *neck.bottom_up_blocks) for block in each]
    assert (len(strided), len(blocks)) == (6, 4)
    assert all(conv.depthwise_conv.conv.kernel_size == (3, 3) for conv in strided)
    for ghost in (ghost for block in blocks for ghost in (block.ghost1, block.ghost2)):
        assert ghost.cheap_operation[0].kernel_size == (3, 3)


def test_the_forward_pass_also_exported_is_that_of_a_naive_reference() -> None:
    neck = randomise(small()).eval()
    inputs = maps(75, 100)
    low, middle, high = (neck.reduce_layers[i](inputs[i + 1]) for i in range(3))

    def up(x: Tensor, like: Tensor) -> Tensor:
        rows = torch.arange(like.shape[2]) * x.shape[2] // like.shape[2]
        columns = torch.arange(like.shape[3]) * x.shape[3] // like.shape[3]
        return x[:, :, rows][:, :, :, columns]

    middle_down = neck.top_down_blocks[0](middle + up(high, middle))
    out0 = neck.top_down_blocks[1](low + up(middle_down, low))
    out1 = neck.bottom_up_blocks[0](middle_down + neck.downsamples[0](out0))
    out2 = neck.bottom_up_blocks[1](high + neck.downsamples[1](out1))
    before3 = neck.extra_lvl_in_conv[0](high)
    out3 = before3 + neck.extra_lvl_out_conv[0](out2)
    out4 = neck.extra_lvl_in_conv[1](before3) + neck.extra_lvl_out_conv[1](out3)
    for outs in (neck(inputs), torch.export.export(neck, (inputs,)).module()(inputs)):
        torch.testing.assert_close(outs, (out0, out1, out2, out3, out4), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(start_level=4), 'start_level is 4; expected 0 to 3'),
        (dict(num_outs=2), 'num_outs is 2; expected 3 or more'),
        (dict(kernel_size=4), 'kernel_size is 4'),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)
    with pytest.raises(ValueError, match='3 maps'):
        small()(maps(64, 64)[1:])

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ghost_det.models.ghost_module import GhostModule, SqueezeExcite, make_divisible


def conv_parameters(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(('k', 'd', 's', 'stride'), [(1, 3, 2, 1), (3, 4, 3, 2), (5, 1, 4, 1)])
def test_shape_and_parameters_follow_the_papers_formula(k: int, d: int, s: int, stride: int) -> None:
    c, n = 8, 11
    module, m = GhostModule(c, n, k, s, d, stride), math.ceil(n / s)
    assert conv_parameters(module) == c * m * k**2 + m * (s - 1) * d**2
    assert module(torch.rand(2, c, 9, 7)).shape == (2, n, math.ceil(9 / stride), math.ceil(7 / stride))


def test_first_half_is_the_primary_convolution_and_second_half_its_ghosts() -> None:
    module = GhostModule(4, 8).eval()
    x = torch.rand(1, 4, 5, 5)
    intrinsic = module.primary_conv(x)
    assert torch.equal(module(x)[:, :4], intrinsic)
    ghost = nn.functional.conv2d(intrinsic, module.cheap_operation[0].weight, padding=1, groups=4)
    assert torch.allclose(module(x)[:, 4:], torch.relu(ghost / math.sqrt(1 + 1e-5)), atol=1e-6)


def test_squeeze_excite_scales_channels_by_a_gate() -> None:
    se = SqueezeExcite(16, 0.25)
    x = torch.rand(2, 16, 4, 3)
    scale = se(x) / x
    assert torch.allclose(scale, scale[:, :, :1, :1].expand_as(scale), atol=1e-6)
    assert 0 <= scale.min() and scale.max() <= 1
    assert se.conv_reduce.out_channels == 4


@pytest.mark.parametrize(
    ('value', 'rounded'), [(16 * 0.5, 8), (24 * 1.3, 32), (40 * 1.1, 44), (112 * 1.6, 180), (1, 4), (4.6, 8)]
)
def test_channels_round_to_a_multiple_of_four(value: float, rounded: int) -> None:
    assert make_divisible(value) == rounded

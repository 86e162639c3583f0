from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ghost_det.models.ghost_module import GhostModule


@pytest.mark.parametrize(('k', 'd', 's', 'stride'), [(1, 3, 2, 1), (3, 4, 3, 2), (5, 1, 4, 1)])
def test_shape_and_parameters_follow_the_papers_formula(k: int, d: int, s: int, stride: int) -> None:
    c, n = 8, 11
    module, m = GhostModule(c, n, k, s, d, stride), math.ceil(n / s)
    weights = [each.weight.numel() for each in module.modules() if isinstance(each, nn.Conv2d)]
    assert sum(weights) == c * m * k**2 + m * (s - 1) * d**2
    assert module(torch.rand(2, c, 9, 7)).shape == (2, n, math.ceil(9 / stride), math.ceil(7 / stride))

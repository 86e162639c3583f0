from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from ghost_det.mends import NAME, SLOW, select


def in_full(scores: torch.Tensor, threshold: float, topk: int) -> tuple[torch.Tensor, ...]:
    flat = scores.flatten()
    values, order = torch.where(flat > threshold, flat, -1).sort(descending=True, stable=True)
    count = min(topk, int((flat > threshold).sum()))
    order = order[:count]
    return values[:count], order % scores.shape[1], order // scores.shape[1]


@pytest.mark.parametrize('rows', [0, 1, 7, 300])
@pytest.mark.parametrize('classes', [1, 3, 80])
@pytest.mark.parametrize('topk', [1, 5, 100, 100_000])
@pytest.mark.parametrize('threshold', [0.0, 0.05, 0.9, 1.0])
def test_the_best_scores_are_selected_the_first_of_equal_ones(
    rows: int, classes: int, topk: int, threshold: float
) -> None:
    for seed, levels in enumerate((2, 10, 1000)):  # few levels: many equal scores, also at the cut
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randint(levels, (rows, classes), generator=generator) / (levels - 1)
        found = select(scores, threshold, topk)
        for ours, expected in zip(found, in_full(scores, threshold, topk)):
            assert torch.equal(ours, expected)
        assert torch.equal(found[0], SLOW(scores, threshold, topk)[0])


@pytest.mark.parametrize('topk', [3, 50, 1000, 100_000])
def test_scores_that_differ_are_selected_as_mmdet_does(topk: int) -> None:
    rows, classes = 400, 20
    values = torch.randperm(rows * classes, generator=torch.Generator().manual_seed(topk))
    scores = (values.reshape(classes, rows).T + 1) / (rows * classes)  # not contiguous, as heads' are
    boxes = torch.rand(rows, 4)
    forms: list[Any] = [None, boxes, [boxes, values[:rows]], dict(bbox_pred=boxes, priors=values[:rows])]
    for results in forms:
        ours, mmdets = select(scores, 0.3, topk, results), SLOW(scores, 0.3, topk, results)
        for a, b in zip(ours[:3], mmdets[:3]):
            assert torch.equal(a, b) and a.dtype == b.dtype
        torch.testing.assert_close(ours[3], mmdets[3], rtol=0, atol=0)


def test_no_limit_is_left_to_mmdet() -> None:
    scores = torch.rand(30, 4)
    for ours, mmdets in zip(select(scores, 0.1, -1)[:3], SLOW(scores, 0.1, -1)[:3]):
        assert torch.equal(ours, mmdets)


def test_every_head_of_mmdet_selects_so() -> None:
    users = [
        module for name, module in sys.modules.items() if name.startswith('mmdet.') and hasattr(module, NAME)
    ]
    assert len(users) > 10
    assert all(getattr(module, NAME) is select for module in users)

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from mmdet.models.utils.misc import filter_scores_and_topk as slow
from mmdet.registry import MODELS
from mmengine.config import Config

from ghost_det.models.fuse import optimize
from ghost_det.models.selection import NAME, select
from tests.conftest import ROOT


def in_full(scores: torch.Tensor, threshold: float, topk: int) -> tuple[torch.Tensor, ...]:
    flat = scores.flatten()
    values, order = torch.where(flat > threshold, flat, -1).sort(descending=True, stable=True)
    count = min(topk, int((flat > threshold).sum()))
    order = order[:count]
    return values[:count], order % scores.shape[1], order // scores.shape[1]


@pytest.mark.parametrize(
    ('rows', 'classes', 'topk', 'threshold'),
    [(0, 3, 5, 0.05), (7, 1, 1, 0.0), (7, 3, 100, 0.05), (300, 80, 100, 0.0), (300, 3, 5, 0.9)],
)
def test_the_best_scores_are_selected_the_first_of_equal_ones(
    rows: int, classes: int, topk: int, threshold: float
) -> None:
    for seed, levels in enumerate((2, 10, 1000)):  # few levels: many equal scores, also at the cut
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randint(levels, (rows, classes), generator=generator) / (levels - 1)
        found = select(slow, scores, threshold, topk)
        for ours, expected in zip(found, in_full(scores, threshold, topk)):
            assert torch.equal(ours, expected)
        assert torch.equal(found[0], slow(scores, threshold, topk)[0])


@pytest.mark.parametrize('topk', [3, 1000, -1])  # no limit is left to mmdet
def test_scores_that_differ_are_selected_as_mmdet_does(topk: int) -> None:
    rows, classes = 400, 20
    values = torch.randperm(rows * classes, generator=torch.Generator().manual_seed(0))
    scores = (values.reshape(classes, rows).T + 1) / (rows * classes)  # not contiguous, as heads' are
    boxes = torch.rand(rows, 4)
    forms: list[Any] = [None, boxes, [boxes, values[:rows]], dict(bbox_pred=boxes, priors=values[:rows])]
    for results in forms:
        ours, mmdets = select(slow, scores, 0.3, topk, results), slow(scores, 0.3, topk, results)
        torch.testing.assert_close(ours, mmdets, rtol=0, atol=0)


def test_an_optimized_detector_selects_so_and_no_other() -> None:
    cfg = Config.fromfile(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py').model.bbox_head
    plain, fast = MODELS.build(cfg).eval(), optimize(MODELS.build(cfg).eval())
    own = fast._predict_by_feat_single
    assert own.__self__ is fast and own.__globals__[NAME].func is select
    assert plain._predict_by_feat_single.__globals__[NAME] is slow
    for copied in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        assert copied._predict_by_feat_single.__self__ is copied

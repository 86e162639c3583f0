"""What the released mmdet gets wrong or does slowly and a detector cannot do without, put right on import."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from mmdet.models import SSDHead
from mmdet.models.utils import misc
from mmengine.config import Config
from torch import Tensor

from ghost_det.config import shipped

Selected = tuple[Tensor, Tensor, Tensor, Any]

NAME = 'filter_scores_and_topk'
SLOW: Callable[..., Selected] = getattr(misc, NAME)
_PATH: Callable[[str, str], tuple[str, str | None]] = Config._get_cfg_path


def select(scores: Tensor, score_thr: float, topk: int, results: Any = None) -> Selected:
    """Return what mmdet's ``filter_scores_and_topk`` does, without sorting the scores that it then drops.

    Of equal scores at the cut the first are taken, in order; mmdet leaves that to ``torch.sort``, which on a
    CPU is not stable. Elsewhere than on a CPU, and without a limit, mmdet's own function is called.

    Args:
        scores: ``(n, classes)``, without NaN.
        score_thr: only higher scores are taken.
        topk: how many of them at most.
        results: a tensor of n rows, or a list or dictionary of such, whose rows are taken along.

    Returns:
        the scores, falling; their classes and rows, int64; and what ``results`` has at those rows.
    """
    if topk < 1 or scores.device.type != 'cpu':
        return SLOW(scores, score_thr, topk, results)
    # The best of as many rows as are wanted are as many scores: no row that is below all of them has a part.
    rows, _ = _above(scores.amax(1), score_thr, topk)
    found, values = _above(scores[rows].flatten(), score_thr, topk)
    values, order = values.sort(descending=True, stable=True)
    found = found[order[:topk]]
    classes = scores.shape[1]
    rows, labels = rows[found // classes], found % classes
    if isinstance(results, dict):
        results = {key: value[rows] for key, value in results.items()}
    elif isinstance(results, list):
        results = [value[rows] for value in results]
    elif results is not None:
        results = results[rows]
    return values[:topk], labels, rows, results


def _above(values: Tensor, threshold: float, topk: int) -> tuple[Tensor, Tensor]:
    """Return where values are above the threshold and not below the ``topk``-th of them, and those values."""
    places = (values > threshold).nonzero().squeeze(1)
    values = values[places]
    if len(values) > topk:
        kept = values >= values.topk(topk).values[-1]
        places, values = places[kept], values[kept]
    return places, values


def _path_of_base(base: str, filename: str) -> tuple[str, str | None]:
    """Return where ``_base_ = 'ghost_det::NAME.py'`` is, and of all other bases what mmengine returns."""
    if base.startswith(shipped.PREFIX):
        return str(shipped.FOLDER / base.removeprefix(shipped.PREFIX)), None
    return _PATH(base, filename)


def mend() -> None:
    """Mend what mmdet 3.3.0 and onedl-mmdetection 3.5.1 have in common.

    SSD can predict, which they stop (mmdetection issue 11063): the base of all heads asks ``self.loss_cls``
    for a property, and SSD's head has no such part. And heads choose their candidates by `select`: at 320
    pixels and 80 classes, the scores of an untrained RetinaNet took longer to sort than its network to run.
    And configs can inherit from ours as ``ghost_det::NAME.py``: mmengine knows only its own packages' so.
    """
    if not hasattr(SSDHead, 'loss_cls'):
        SSDHead.loss_cls = None
    if Config._get_cfg_path is not _path_of_base:
        Config._get_cfg_path = staticmethod(_path_of_base)
    for name, module in list(sys.modules.items()):
        if name.startswith('mmdet.') and getattr(module, NAME, None) is SLOW:
            setattr(module, NAME, select)

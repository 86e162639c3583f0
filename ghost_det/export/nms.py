"""Selection of boxes in a batch of images: highest scores, non-maximum suppression."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from ghost_det.errors import UserError


class Candidates(NamedTuple):
    """Boxes that compete, K of each of N images."""

    boxes: Tensor
    """``(N, K, 4)``, x1 y1 x2 y2 in pixels of the canvas."""
    scores: Tensor
    """``(N, K)``; 0 where there is none."""
    labels: Tensor
    """``(N, K)``, whole numbers."""


@torch.library.custom_op('ghost_det::keep_best', mutates_args=())
def keep_best(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Return the indices ``(N, limit)`` of the boxes ``(N, K, 4)`` that non-maximum suppression keeps.

    The best are first; boxes of score 0 are ignored; missing ones have index -1.
    """
    kept = torch.full((len(boxes), limit), -1, dtype=torch.int64, device=boxes.device)
    for image in range(len(boxes)):
        places = (scores[image] > 0).nonzero().flatten()
        best = places[nms(boxes[image, places], scores[image, places], iou_threshold)[:limit]]
        kept[image, : len(best)] = best
    return kept


@keep_best.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    return boxes.new_empty((boxes.shape[0], limit), dtype=torch.int64)


def gather_rows(table: Tensor, places: Tensor) -> Tensor:
    """Return the rows ``(N, K, D)`` of each image's table ``(N, A, D)`` at the indices ``(N, K)``."""
    images, height, width = table.shape
    # Tensor.gather would need an index for each value of a row.
    first = torch.arange(images, device=table.device).unsqueeze(-1) * height
    return F.embedding(places + first, table.reshape(-1, width))


def suppress(found: Candidates, cfg: Any, side: Any) -> Candidates:
    """Return the boxes that the suppression of a ``test_cfg`` keeps; missing ones have score 0, label -1."""
    iou_threshold, limit = nms_settings(cfg)
    # Each label is suppressed on its own, as its boxes are moved away from the others'.
    moved = found.boxes + (found.labels.to(found.boxes) * (side + 1)).unsqueeze(-1)
    places = keep_best(moved, found.scores, iou_threshold, limit)
    there, places = places >= 0, places.clamp(min=0)
    return Candidates(
        gather_rows(found.boxes, places) * there.unsqueeze(-1),
        found.scores.gather(1, places) * there,
        torch.where(there, found.labels.gather(1, places), -1),
    )


def top_scores(scores: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest scores of ``(N, A, C)``, their boxes' indices and classes, ``(N, limit)`` each."""
    boxes, classes = scores.shape[1:]
    # Only the `limit` best boxes by their best class can have one of the `limit` best scores.
    places = None
    if classes > 1 and not (isinstance(boxes, int) and boxes <= limit):
        places = scores.amax(-1).topk(torch.sym_min(limit, boxes), sorted=False).indices.sort().values
        scores = gather_rows(scores, places)
    count = scores.shape[1] * classes
    if isinstance(count, int) and count <= limit:
        top = scores.flatten(1)
        index = torch.arange(count, device=scores.device).expand_as(top)
    else:
        top, index = scores.flatten(1).topk(torch.sym_min(limit, count))
    box, label = index // classes, index % classes
    return top, box if places is None else places.gather(1, box), label


def nms_settings(cfg: Any) -> tuple[float, int]:
    """Return the overlap and the number of boxes in a ``test_cfg`` with plain suppression."""
    nms = dict(cfg.get('nms') or {})
    if nms.get('type', 'nms') != 'nms' or nms.get('class_agnostic') or 'iou_threshold' not in nms:
        raise UserError(
            f'test_cfg.nms is {nms}: exported detectors support only plain non-maximum suppression; '
            '--cfg-options model.test_cfg.nms="dict(type=\'nms\',iou_threshold=0.5)"'
        )
    limit = int(cfg.get('max_per_img', 100))
    if limit < 1:
        raise UserError(f'test_cfg.max_per_img is {limit}: exported detectors need a limit of 1 or more')
    return float(nms['iou_threshold']), limit


def drop_small(found: Candidates, least: float) -> Candidates:
    """Set the scores of boxes to 0 that are not wider and higher than ``least``."""
    if least < 0:
        return found
    width, height = (found.boxes[..., 2:] - found.boxes[..., :2]).unbind(-1)
    return found._replace(scores=found.scores * ((width > least) & (height > least)))

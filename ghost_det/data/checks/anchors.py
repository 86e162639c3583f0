"""How many ground-truth boxes the anchors of a config reach, and which other anchors would reach more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps

from ghost_det.config.query import test_pipeline
from ghost_det.data.findings import Finding, found
from ghost_det.data.table import IOU, LIMITS, SIZES, Floats, Ints, Table, sound_boxes

MOST = 20_000  # boxes that are measured
ENOUGH = 0.9
BETTER = 0.005
GRIDS = ('AnchorGenerator', 'SSDAnchorGenerator', 'YOLOAnchorGenerator', 'LegacyAnchorGenerator')


class NotExamined(Exception):
    """The reason why anchors cannot be measured."""


def check_anchors(cfg: Any, table: Table, split: str) -> tuple[list[Finding], list[str]]:
    """Return the finding if the anchors of a config reach too few boxes of a split, and lines to print."""
    try:
        generator, place = find_generator(cfg)
        boxes, shapes, size = resize_boxes(table, cfg)
    except NotExamined as reason:
        return [], [f'anchors: not examined: {reason}']
    share, now = _measure(generator, 'now', boxes, shapes, size)
    others = [_measure(other, words, boxes, shapes, size) for words, other in alternatives(generator).items()]
    better = [f'  {line}' for reached, line in sorted(others, reverse=True) if reached > share + BETTER]
    lines = [f'boxes that an anchor covers (IoU >= {IOU}), {place}:', f'  {now}']
    lines += better or ['  no alternative that was tried covers more']
    return found('few anchors fit', split, [now.strip()] if share < ENOUGH else []), lines


def find_generator(cfg: Any) -> tuple[Any, str]:
    """Return the config of a detector's anchor generator, and its place."""
    model = cfg.model
    while 'detector' in model:  # semi-supervised
        model = model.detector
    for name in ('rpn_head', 'bbox_head'):
        head = model.get(name)
        generator = head.get('anchor_generator') if isinstance(head, dict) else None
        if generator is None:
            continue
        kind = str(generator.type).rpartition('.')[2]
        if (model.get('train_cfg') or {}).get('assigner', {}).get('type') == 'ATSSAssigner':
            raise NotExamined('ATSSAssigner assigns the nearest anchors to each box, whatever their overlap')
        if kind not in GRIDS:
            raise NotExamined(f'the anchors of {kind} (model.{name}) are not a fixed grid')
        return generator, f'model.{name}.anchor_generator'
    raise NotExamined(f'{model.get("type")} has no anchor generator')


def resize_factors(pipeline: Sequence[Any], sizes: Floats) -> Floats:
    """Return the factors by which a test pipeline resizes images of sizes (n, 2)."""
    step = next((step for step in pipeline if 'Resize' in step.type or step.type == 'TestTimeAug'), None)
    if step is None:
        return np.ones_like(sizes)
    scale = step.get('scale')
    if step.type.rpartition('.')[2] not in ('Resize', 'FixScaleResize') or not scale:
        raise NotExamined(f'the test pipeline resizes by {step.type}, which is not supported here')
    target = np.array([scale, scale] if isinstance(scale, int) else scale, np.float64)
    if not step.get('keep_ratio', False):
        return np.asarray(target / sizes)
    # As mmcv.rescale_size: the long side fits the larger number, the short side the smaller one.
    factor = np.minimum(target.max() / sizes.max(1), target.min() / sizes.min(1))
    return np.asarray(np.floor(sizes * factor[:, None] + 0.5) / sizes)


def resize_boxes(table: Table, cfg: Any) -> tuple[torch.Tensor, torch.Tensor, Ints]:
    """Return corners (n, 4) and padded image sizes (n, 2) as in a test, and indices in `SIZES` (n,)."""
    chosen = np.flatnonzero(sound_boxes(table) & ~table.crowd & table.box_sizes().all(1))
    chosen = chosen[:: max(1, -(-len(chosen) // MOST))]
    boxes, sizes = table.boxes[chosen], table.box_sizes()[chosen].astype(np.float64)
    factors = resize_factors(test_pipeline(cfg), sizes)
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor') or 1
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) * np.tile(factors, 2)
    shapes = np.ceil(np.round(sizes * factors) / divisor) * divisor
    return torch.from_numpy(corners), torch.from_numpy(shapes), np.digitize(boxes[:, 2:].prod(1), LIMITS)


def best_overlaps(generator: Any, boxes: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
    """Return the best IoU (n,) of boxes (n, 4), in images of padded sizes (n, 2), with all anchors.

    Anchors of one shape lie on a grid, and the IoU of two boxes of fixed shapes does not rise with the
    distance of their centres along either axis. So the best anchor of each shape is the nearest.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    best = boxes.new_zeros(len(boxes))
    for base, stride in zip(generator.base_anchors, generator.strides):
        step = boxes.new_tensor(stride)
        last = torch.ceil(shapes / step) - 1  # (n, 2), of the grid of this level
        for anchor in base.to(boxes):
            offset = (anchor[:2] + anchor[2:]) / 2
            cell = torch.minimum(torch.round((centres - offset) / step).clamp(min=0), last)
            placed = anchor + (cell * step).repeat(1, 2)
            best = torch.maximum(best, bbox_overlaps(boxes, placed, is_aligned=True))
    return best


def _measure(
    generator: Any, words: str, boxes: torch.Tensor, shapes: torch.Tensor, size: Ints
) -> tuple[float, str]:
    """Return the share of boxes that anchors reach, and a line with the shares by size."""
    built = TASK_UTILS.build(generator)
    reached = best_overlaps(built, boxes, shapes).numpy() >= IOU
    share = float(reached.mean()) if len(reached) else 1.0
    parts = [
        f'{name} {reached[size == n].mean():6.1%} of {(size == n).sum()}' if n in size else f'{name} (none)'
        for n, name in enumerate(SIZES)
    ]
    cell = '/'.join(map(str, dict.fromkeys(built.num_base_priors)))
    return share, f'{share:6.1%} of {len(reached)}: {", ".join(parts)}   {words} ({cell} a cell)'


def alternatives(generator: Any) -> dict[str, dict[str, Any]]:
    """Return anchors to try, by what to write in the config: half the size, two more ratios, and both."""
    if generator.type.rpartition('.')[2] not in ('AnchorGenerator', 'LegacyAnchorGenerator'):
        return {}
    smaller: dict[str, Any] = {'scales': [scale / 2 for scale in generator.get('scales') or ()]}
    if generator.get('octave_base_scale'):
        smaller = {'octave_base_scale': generator['octave_base_scale'] / 2}
    ratios = sorted(map(float, generator['ratios']))
    wider = {'ratios': [round(ratios[0] * 0.6, 2), *ratios, round(ratios[-1] / 0.6, 2)]}
    return {
        ', '.join(f'{key}={value}' for key, value in change.items()): {**generator, **change}
        for change in (smaller, wider, smaller | wider)
    }

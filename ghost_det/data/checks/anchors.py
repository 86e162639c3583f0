"""Which ground truth the anchors of a config reach, by size, and which other anchors would reach more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps

from ghost_det.config.query import test_pipeline
from ghost_det.data.findings import Finding, found
from ghost_det.data.table import IOU, LIMITS, SIZES, Floats, Ints, Table, sound_boxes

MOST = 20_000  # boxes are enough for a share: its standard error is under 0.4 %
ENOUGH = 0.9


@dataclass(frozen=True)
class Coverage:
    """Shares of boxes that an anchor reaches."""

    anchors: str  # what was measured, in words
    boxes: tuple[int, ...]  # of each of `SIZES`
    reached: tuple[int, ...]  # those of them with an anchor at an IoU of 0.5
    overlaps: Floats  # (n,) the best IoU of each box

    @property
    def share(self) -> float:
        """The share of all boxes that are reached."""
        return sum(self.reached) / max(1, sum(self.boxes))

    def line(self) -> str:
        """Return it as a row of a table."""
        parts = [
            f'{name} {reached / count:6.1%} of {count}' if count else f'{name} (none)'
            for name, count, reached in zip(SIZES, self.boxes, self.reached)
        ]
        return f'{self.share:6.1%} of {sum(self.boxes)}: {", ".join(parts)}   {self.anchors}'


def find_generator(cfg: Any) -> tuple[Any, str]:
    """Return the anchor generator of a detector's config, or ``None``, and its place or the reason."""
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
            return None, 'ATSSAssigner assigns the nearest anchors to each box, whatever their overlap'
        if kind in ('AnchorGenerator', 'SSDAnchorGenerator', 'YOLOAnchorGenerator', 'LegacyAnchorGenerator'):
            return generator, f'model.{name}.anchor_generator'
        return None, f'{kind} of model.{name}: its anchors are not a fixed grid'
    return None, f'{model.get("type")} has no anchor generator: it is anchor-free, or its queries are learned'


def resize_factors(pipeline: Sequence[Any], sizes: Floats) -> Floats | str:
    """Return the factors by which a test pipeline resizes images of sizes (n, 2), or why they are unknown."""
    steps = [
        step for step in pipeline if 'Resize' in str(step.get('type')) or step.get('type') == 'TestTimeAug'
    ]
    if not steps:
        return np.ones_like(sizes)
    step = steps[0]
    scale = step.get('scale')
    if str(step.type).rpartition('.')[2] not in ('Resize', 'FixScaleResize') or not scale:
        return f'its test pipeline resizes by {step.type}, which is not supported here'
    target = np.array([scale, scale] if isinstance(scale, int) else scale, np.float64)
    if not step.get('keep_ratio', False):
        return np.asarray(target / sizes)
    # As mmcv.rescale_size: the long side under the longer number, the short one under the shorter.
    factor = np.minimum(target.max() / sizes.max(1), target.min() / sizes.min(1))
    return np.asarray(np.floor(sizes * factor[:, None] + 0.5) / sizes)


def best_overlaps(generator: Any, boxes: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
    """Return the best IoU of each box with the anchors of all levels.

    The anchors of one shape lie on a grid, and the IoU of two boxes of fixed shapes does not rise with the
    distance of their centres along either axis: so only the four cells around a box's centre can hold the
    best of each shape, or, at the image's edge, the nearest cells that exist. Boxes are corners (n, 4) in
    resized images whose padded widths and heights are ``shapes`` (n, 2).
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    best = boxes.new_zeros(len(boxes))
    for base, stride in zip(generator.base_anchors, generator.strides):
        step = boxes.new_tensor(stride)
        last = torch.ceil(shapes / step) - 1  # (n, 2), of the grid of this level
        for anchor in base.to(boxes):
            offset = (anchor[:2] + anchor[2:]) / 2
            low = torch.floor((centres - offset) / step)
            for dx in (0, 1):
                for dy in (0, 1):
                    cell = torch.minimum((low + low.new_tensor([dx, dy])).clamp(min=0), last)
                    placed = anchor + (cell * step).repeat(1, 2)
                    best = torch.maximum(best, bbox_overlaps(boxes, placed, is_aligned=True))
    return best


def resize_boxes(
    table: Table, pipeline: Sequence[Any], divisor: int
) -> tuple[torch.Tensor, torch.Tensor, Ints] | str:
    """Return boxes as a test pipeline resizes them, or why that is unknown.

    Corners (n, 4), the sizes of their images (n, 2), padded to multiples of ``divisor``, and which of `SIZES`
    each box had before (n,).
    """
    chosen = np.flatnonzero(sound_boxes(table) & ~table.crowd)
    chosen = chosen[table.sizes[table.image[chosen]].all(1)]
    if len(chosen) > MOST:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST, replace=False))
    boxes, sizes = table.boxes[chosen], table.sizes[table.image[chosen]].astype(np.float64)
    factors = resize_factors(pipeline, sizes)
    if isinstance(factors, str):
        return factors
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) * np.tile(factors, 2)
    shapes = np.ceil(np.round(sizes * factors) / divisor) * divisor
    return torch.from_numpy(corners), torch.from_numpy(shapes), np.digitize(boxes[:, 2:].prod(1), LIMITS)


def measure_coverage(
    generator: dict[str, Any], words: str, corners: torch.Tensor, shapes: torch.Tensor, size: Ints
) -> Coverage:
    """Measure which of the boxes of `resize_boxes` the anchors reach; ``words`` are what to call them."""
    built = TASK_UTILS.build(generator)
    overlaps = best_overlaps(built, corners, shapes).numpy()
    counts = np.bincount(size, minlength=3)
    reached = np.bincount(size[overlaps >= IOU], minlength=3)
    cell = '/'.join(str(count) for count in dict.fromkeys(built.num_base_priors))
    return Coverage(f'{words} ({cell} a cell)', tuple(counts.tolist()), tuple(reached.tolist()), overlaps)


def alternatives(generator: Any) -> dict[str, dict[str, Any]]:
    """Return three others to try, by what to write in the config: smaller anchors, more ratios, both."""
    old = dict(generator)
    if old['type'].rpartition('.')[2] not in ('AnchorGenerator', 'LegacyAnchorGenerator'):
        return {}
    smaller: dict[str, Any] = {'scales': [scale / 2 for scale in old.get('scales') or ()]}
    if old.get('octave_base_scale'):
        smaller = {'octave_base_scale': old['octave_base_scale'] / 2}
    ratios = sorted(map(float, old['ratios']))
    wider = {'ratios': [round(ratios[0] * 0.6, 2), *ratios, round(ratios[-1] / 0.6, 2)]}
    return {
        ', '.join(f'{key}={value}' for key, value in change.items()): {**old, **change}
        for change in (smaller, wider, {**smaller, **wider})
    }


def check_anchors(cfg: Any, table: Table, split: str) -> tuple[list[Finding], list[str], Coverage | None]:
    """Measure anchors on a split: the finding if they reach too few boxes, lines to print, their coverage."""
    generator, place = find_generator(cfg)
    if generator is None:
        return [], [f'anchors: not examined: {place}'], None
    pipeline = test_pipeline(cfg)
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor') or 1
    resized = resize_boxes(table, pipeline, divisor)
    if isinstance(resized, str):
        return [], [f'anchors: not examined: {resized}'], None
    now = measure_coverage(generator, 'now', *resized)
    tried = [measure_coverage(other, words, *resized) for words, other in alternatives(generator).items()]
    better = [each for each in tried if each.share > now.share + 0.005]
    better.sort(key=lambda each: -each.share)
    lines = [f'boxes that an anchor reaches at IoU {IOU}, {place}:', f'  {now.line()}']
    lines += [f'  {each.line()}' for each in better] or ['  none of the others that were tried reaches more']
    few = [now.line().strip()] if any(now.boxes) and now.share < ENOUGH else []
    return found('few anchors fit', split, few), lines, now

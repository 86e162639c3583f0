"""A detector as a network without post-processing, which phones and other engines can run."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import GFLHead, RetinaHead, RetinaSepBNHead
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from torch import Tensor

from ghost_det.errors import UserError

from .graph import DetectorGraph
from .heads import find_head

MAX_RATIO = -math.log(16 / 1000)
"""The largest logarithm of a box's side over its anchor's: mmdet's, which no config can set."""


def raw_metadata(detector: Any) -> dict[str, Any]:
    """Return the part of `Metadata` about a detector's maps; raise a `UserError` about another head."""
    head: Any = getattr(find_head(detector), 'head', None)
    coder: Any = getattr(head, 'bbox_coder', None)
    deltas = isinstance(head, RetinaHead | RetinaSepBNHead) and type(coder) is DeltaXYWHBBoxCoder
    known = isinstance(head, GFLHead) or deltas
    plain = (
        known and head.use_sigmoid_cls and coder.clip_border and not getattr(coder, 'add_ctr_clamp', False)
    )
    if (
        not plain
        or head.test_cfg.get('min_bbox_size', 0) > 0
        or getattr(head.loss_cls, 'custom_cls_channels', False)
    ):
        name = type(getattr(detector, 'bbox_head', detector)).__name__
        raise UserError(f'{name}: only plain GFL and RetinaNet can be exported for ncnn or with --raw')
    limit = head.test_cfg.get('nms_pre', -1)
    strides = tuple(int(stride[0]) for stride in head.prior_generator.strides)
    return dict(strides=strides, candidates=limit if limit > 0 else None)


class RawGraph(DetectorGraph):
    """A one-stage detector of mmdet, in evaluation mode, with its normalization.

    Shape:
        An image ``(1, 3, H, W)``, 0 to 255 in OpenCV's order, to the scores ``(1, A * C, h, w)`` and the
        boxes ``(1, A * 4, h, w)`` of each level in turn: x1 y1 x2 y2 in strides, from the index of the cell.
        Such small numbers are precise in 16 bits, too.
    """

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the maps."""
        scores, raws = self.detector.bbox_head(self.detector.extract_feat(self.normalise(image)))
        boxes = [self.decode(raw, level).reshape(1, -1, *raw.shape[2:]) for level, raw in enumerate(raws)]
        return tuple(maps for level in zip(scores, boxes) for maps in (level[0].sigmoid(), level[1]))

    def decode(self, raw: Tensor, level: int) -> Tensor:
        """Return the boxes of a level from the head's own map."""
        head = self.detector.bbox_head
        anchors = head.prior_generator.base_anchors[level].unsqueeze(-1)
        anchors = anchors / head.prior_generator.strides[level][0]
        centres, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
        if isinstance(head, GFLHead):  # a distribution of each side's distance, in strides
            shares = raw.reshape(1, 4, head.reg_max + 1, -1).softmax(2).reshape(raw.shape)
            # A convolution, as pnnx 20261020 loses the axis of a sum.
            distances = raw.new_tensor([-1, -1, 1, 1]).outer(head.integral.project)[..., None, None]
            return F.conv2d(shares, distances, centres.flatten().repeat(2), groups=4)
        coder = head.bbox_coder
        stds, means = (raw.new_tensor(values).unsqueeze(-1) for values in (coder.stds, coder.means))
        deltas = raw.reshape(1, len(anchors), 4, -1) * stds + means
        middles = centres + deltas[:, :, :2] * sizes
        halves = deltas[:, :, 2:].clamp(-MAX_RATIO, MAX_RATIO).exp() * sizes / 2
        return torch.cat([middles - halves, middles + halves], 2)

"""mmdet's post-processing of a batch, with tensors of fixed shapes.

The steps and their order are those of ``predict_by_feat`` of each head; the boxes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models import GFLHead, RPNHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor

from ghost_det.errors import UserError

from .nms import Candidates, drop_small, gather_rows, suppress, top_scores


def flatten(maps: Tensor, width: int) -> Tensor:
    """Return ``(N, A * width, H, W)`` maps as a table ``(N, H * W * A, width)``."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width)


def join(levels: Sequence[Tensor], width: int) -> Tensor:
    """Return the maps of all levels as one table."""
    return torch.cat([flatten(maps, width) for maps in levels], 1)


class DenseHead:
    """The boxes of a one-stage head, as of RetinaNet, SSD, ATSS, GFL, FCOS and RTMDet, or of an RPN."""

    def __init__(self, head: Any) -> None:
        own = getattr(type(head), '_predict_by_feat_single', None)
        known = (each._predict_by_feat_single for each in (BaseDenseHead, GFLHead, RPNHead))
        if type(head).predict_by_feat is not BaseDenseHead.predict_by_feat or own not in known:
            raise _unknown(head)
        self.head, self.cfg = head, head.test_cfg

    def scores(self, maps: Tensor) -> Tensor:
        """Return the classes' scores ``(N, A, C)`` of a level."""
        table = flatten(maps, self.head.cls_out_channels)
        if getattr(self.head.loss_cls, 'custom_cls_channels', False):
            return self.head.loss_cls.get_activation(table)  # type: ignore[no-any-return]
        return table.sigmoid() if self.head.use_sigmoid_cls else table.softmax(-1)[..., :-1]

    def decode(self, priors: Tensor, raw: Tensor, stride: Any, sizes: Tensor) -> Tensor:
        """Return boxes ``(N, K, 4)`` of priors ``(N, K, D)`` and the head's raw output for each."""
        if isinstance(self.head, GFLHead):
            # Instead of the head's `integral`, whose product with a vector is slow in engines.
            shares = raw.reshape(*raw.shape[:2], 4, -1).softmax(-1)
            raw = (shares * self.head.integral.project).sum(-1) * stride[0]
            priors = self.head.anchor_center(priors)
        coder = self.head.bbox_coder
        boxes = coder.decode(priors.flatten(0, 1), raw.flatten(0, 1)).reshape(*raw.shape[:2], 4)
        return clip(boxes, sizes) if getattr(coder, 'clip_border', False) else boxes

    def __call__(self, features: Sequence[Tensor], side: Any, sizes: Tensor) -> Candidates:
        """Return the detections in the neck's maps; ``sizes`` as in `DetectorGraph`."""
        classes, raws, *factors = self.head(features)
        generator = self.head.prior_generator
        priors = generator.grid_priors([maps.shape[-2:] for maps in classes], device=classes[0].device)
        levels = []
        for level, maps in enumerate(classes):
            scores = self.scores(maps)
            if self.cfg.get('score_thr', 0) > 0:
                scores = scores * (scores > self.cfg.score_thr)
            limit = self.cfg.get('nms_pre', -1)
            top, place, label = top_scores(scores, limit if limit > 0 else scores.shape[1] * scores.shape[2])
            raw = flatten(raws[level], raws[level].shape[1] // generator.num_base_priors[level])
            prior = F.embedding(place, priors[level])
            boxes = self.decode(prior, gather_rows(raw, place), generator.strides[level], sizes)
            if factors and factors[0] is not None:
                top = top * flatten(factors[0][level], 1).sigmoid().squeeze(-1).gather(1, place)
            if isinstance(self.head, RPNHead):  # suppresses each level on its own
                label = torch.full_like(label, level)
            levels.append(Candidates(boxes, top, label))
        found = Candidates(*(torch.cat(parts, dim=1) for parts in zip(*levels)))
        return suppress(drop_small(found, self.cfg.get('min_bbox_size', -1)), self.cfg, side)


class YOLOX:
    """The boxes of YOLOX: of each cell only the best class."""

    def __init__(self, head: Any) -> None:
        if type(head).predict_by_feat is not YOLOXHead.predict_by_feat:
            raise _unknown(head)
        self.head, self.cfg = head, head.test_cfg

    def __call__(self, features: Sequence[Tensor], side: Any, sizes: Tensor) -> Candidates:
        """Return the detections in the neck's maps."""
        classes, raw, objects = self.head(features)
        priors = self.head.prior_generator.grid_priors(
            [maps.shape[-2:] for maps in classes], device=classes[0].device, with_stride=True
        )
        scores, labels = join(classes, self.head.cls_out_channels).sigmoid().max(-1)
        scores = scores * join(objects, 1).sigmoid().squeeze(-1)
        boxes = self.head._bbox_decode(torch.cat(priors), join(raw, 4))
        found = Candidates(boxes, scores * (scores >= self.cfg.get('score_thr', 0)), labels)
        found = suppress(found, self.cfg, 3 * side)  # boxes reach beyond the canvas
        return found._replace(boxes=clip(found.boxes, sizes))


class TwoStage:
    """The boxes of Faster R-CNN: proposals, their features, classes and boxes of each."""

    def __init__(self, detector: Any) -> None:
        self.proposals = DenseHead(detector.rpn_head)
        self.roi = detector.roi_head
        if type(self.roi).__name__ != 'StandardRoIHead' or self.roi.with_shared_head:
            raise _unknown(self.roi)
        if type(self.roi.bbox_roi_extractor).__name__ != 'SingleRoIExtractor':
            raise _unknown(self.roi.bbox_roi_extractor)
        if self.roi.bbox_head.custom_cls_channels or not self.roi.bbox_head.with_reg:
            raise _unknown(self.roi.bbox_head)
        self.cfg = self.roi.test_cfg

    def features(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return the features of rois ``(R, 5)`` (image, x1 y1 x2 y2), each from the level for its size."""
        extractor = self.roi.bbox_roi_extractor
        layers = extractor.roi_layers
        levels = extractor.map_roi_levels(rois, len(layers))
        there = (rois[:, 3] > rois[:, 1]) & (rois[:, 4] > rois[:, 2])
        pixel = rois.new_tensor([0.0, 0.0, 1.0, 1.0])
        total: Any = 0
        for level, layer in enumerate(layers):
            mine = ((levels == level) & there)[:, None]
            # Others are a pixel, the cheapest: OpenVINO would divide by zero if they had no area.
            box = torch.cat([rois[:, :1], torch.where(mine, rois[:, 1:], pixel)], dim=1)
            out = torch.ops.torchvision.roi_align(
                maps[level], box, layer.spatial_scale, *layer.output_size, layer.sampling_ratio, layer.aligned
            )
            total = total + out * mine[..., None, None]
        return total  # type: ignore[no-any-return]

    def __call__(self, maps: Sequence[Tensor], side: Any, sizes: Tensor) -> Candidates:
        """Return the detections in the neck's maps."""
        proposals = self.proposals(maps, side, sizes)
        images, count = proposals.scores.shape
        place = torch.arange(images, device=maps[0].device).to(maps[0])[:, None, None].expand(-1, count, 1)
        rois = torch.cat([place, proposals.boxes], dim=2).reshape(-1, 5)
        head = self.roi.bbox_head
        logits, raw = head(self.features(maps[: len(self.roi.bbox_roi_extractor.roi_layers)], rois))
        scores = F.softmax(logits, dim=-1)[:, :-1]
        classes = scores.shape[1]
        boxed = 1 if head.reg_class_agnostic else classes
        boxes = head.bbox_coder.decode(rois[:, 1:].repeat_interleave(boxed, dim=0), raw.reshape(-1, 4))
        boxes = clip(boxes.reshape(images, count * boxed, 4), sizes).reshape(images, count, boxed, 4)
        scores = scores.reshape(images, count, classes)
        scores = scores * ((scores > self.cfg.score_thr) & (proposals.scores > 0).unsqueeze(-1))
        labels = torch.arange(classes, device=scores.device).expand(images, count, classes)
        boxes = boxes.expand(-1, -1, classes, -1).reshape(images, -1, 4)
        return suppress(Candidates(boxes, scores.flatten(1), labels.flatten(1)), self.cfg, side)


def find_head(detector: Any) -> DenseHead | YOLOX | TwoStage:
    """Return the post-processing of a detector, or raise a `UserError` if there is none."""
    if getattr(detector, 'with_mask', False) or getattr(detector, 'mask_head', None) is not None:
        raise UserError(f'{type(detector).__name__}: masks cannot be exported, only boxes')
    if getattr(detector, 'rpn_head', None) is not None and hasattr(detector, 'roi_head'):
        return TwoStage(detector)
    head = getattr(detector, 'bbox_head', None)
    if isinstance(head, YOLOXHead):
        return YOLOX(head)
    if isinstance(head, BaseDenseHead) and not isinstance(head, RPNHead):
        return DenseHead(head)
    raise _unknown(detector if head is None else head)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Return boxes ``(N, K, 4)`` clipped to each image's own area, without the padding.

    Cells over padding that is the same in every image of a data set are never trained and can score high.
    Their boxes lose their area here, before non-maximum suppression, and do not crowd out others.
    """
    limits = sizes.to(boxes).flip(-1).repeat(1, 2).unsqueeze(1)
    return torch.minimum(boxes.clamp(min=0), limits)


def _unknown(part: Any) -> UserError:
    return UserError(
        f'{type(part).__name__}: cannot be exported; supported are Faster R-CNN and one-stage heads with the '
        'post-processing of RetinaNet, SSD, ATSS, GFL, FCOS, VFNet, RTMDet or YOLOX'
    )

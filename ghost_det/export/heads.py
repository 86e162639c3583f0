"""What a detector's heads find, as tensors of fixed shapes: mmdet's post-processing of a whole batch.

The steps and their order are those of mmdet's ``predict_by_feat`` of each head; the boxes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models import GFLHead, RPNHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor

from ghost_det.errors import UserError

from .standard import keep_best


class Found(NamedTuple):
    """Boxes that compete: of N images, K boxes each.

    Attributes:
        boxes: ``(N, K, 4)``, x1 y1 x2 y2 in pixels of the canvas.
        scores: ``(N, K)``; 0 where there is none.
        labels: ``(N, K)``, whole numbers.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def rows(table: Tensor, places: Tensor) -> Tensor:
    """Return ``(N, K, D)``: of each image's ``(N, A, D)`` table, the rows ``(N, K)`` at some places."""
    images, height, width = table.shape
    # Whole rows out of one table: Tensor.gather would have an index for each of their values.
    first = torch.arange(images, device=table.device).unsqueeze(-1) * height
    return F.embedding(places + first, table.reshape(-1, width))


def joined(found: Sequence[Found]) -> Found:
    """Return all pyramid levels' boxes as one."""
    return Found(*(torch.cat(parts, dim=1) for parts in zip(*found)))


def best(found: Found, iou_threshold: float, limit: int, side: Any) -> Found:
    """Suppress boxes that overlap better ones of the same label.

    Args:
        found: all.
        iou_threshold: overlap above which the lesser box goes.
        limit: how many to return for each image.
        side: the longer side of the canvas: one label's boxes are moved out of reach of the other's.

    Returns:
        The best ``limit``; what is missing has score 0 and label -1.
    """
    apart = found.boxes + (found.labels.to(found.boxes) * (side + 1)).unsqueeze(-1)
    places = keep_best(apart, found.scores, iou_threshold, limit)
    there, places = places >= 0, places.clamp(min=0)
    return Found(
        rows(found.boxes, places) * there.unsqueeze(-1),
        found.scores.gather(1, places) * there,
        torch.where(there, found.labels.gather(1, places), -1),
    )


def flat(maps: Tensor, width: int) -> Tensor:
    """Return ``(N, A * width, H, W)`` maps as a table ``(N, H * W * A, width)``."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width)


def strongest(scores: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest of all boxes' and classes' scores.

    A box that is not among the ``limit`` best by its best class has none of the ``limit`` best scores:
    most are put aside before the classes are looked at one by one.

    Args:
        scores: ``(N, A, C)``.
        limit: how many are wanted; all where there are fewer.

    Returns:
        Scores, boxes' places and classes, ``(N, limit)`` each.
    """
    boxes, classes = scores.shape[1:]
    places = None
    if classes > 1 and not (isinstance(boxes, int) and boxes <= limit):
        places = scores.amax(-1).topk(_least(limit, boxes), sorted=False).indices.sort().values
        scores = rows(scores, places)
    count = scores.shape[1] * classes
    if isinstance(count, int) and count <= limit:
        top = scores.flatten(1)
        index = torch.arange(count, device=scores.device).expand_as(top)
    else:
        top, index = scores.flatten(1).topk(_least(limit, count))
    box, label = index // classes, index % classes
    return top, box if places is None else places.gather(1, box), label


def _least(limit: int, count: Any) -> Any:
    return min(limit, count) if isinstance(count, int) else torch.sym_min(limit, count)


class DenseHead:
    """The boxes of a one-stage head: RetinaNet, SSD, ATSS, GFL, FCOS, RTMDet, and others made like them.

    Raises:
        UserError: the head's post-processing is another one.
    """

    def __init__(self, head: Any) -> None:
        self.head = head
        own = getattr(type(head), '_predict_by_feat_single', None)
        if type(head).predict_by_feat is not BaseDenseHead.predict_by_feat or own not in (
            BaseDenseHead._predict_by_feat_single,
            GFLHead._predict_by_feat_single,
        ):
            raise _unknown(head)
        self.cfg = head.test_cfg
        self.limit = self.cfg.get('nms_pre', -1)

    def scores(self, maps: Tensor) -> Tensor:
        """Return the classes' scores ``(N, A, C)`` of a level."""
        table = flat(maps, self.head.cls_out_channels)
        if getattr(self.head.loss_cls, 'custom_cls_channels', False):
            return self.head.loss_cls.get_activation(table)  # type: ignore[no-any-return]
        return table.sigmoid() if self.head.use_sigmoid_cls else table.softmax(-1)[..., :-1]

    def decoded(self, priors: Tensor, raw: Tensor, stride: Any, sizes: Tensor) -> Tensor:
        """Return boxes ``(N, K, 4)`` of priors ``(N, K, D)`` and the head's raw output for each."""
        if isinstance(self.head, GFLHead):
            # As the head's `integral`, whose product with a vector engines are slow at.
            shares = raw.reshape(*raw.shape[:2], 4, -1).softmax(-1)
            raw = (shares * self.head.integral.project).sum(-1) * stride[0]
            priors = self.head.anchor_center(priors)
        coder = self.head.bbox_coder
        boxes = coder.decode(priors.flatten(0, 1), raw.flatten(0, 1)).reshape(*raw.shape[:2], 4)
        return clipped(boxes, sizes) if getattr(coder, 'clip_border', False) else boxes

    def candidates(self, outs: Sequence[Sequence[Tensor]], sizes: Tensor) -> Found:
        """Return what competes in the end, of all levels.

        Args:
            outs: the head's maps: classes, boxes, and perhaps a factor of the scores, each by level.
            sizes: see `DetectorGraph`.
        """
        generator = self.head.prior_generator
        priors = generator.grid_priors([maps.shape[-2:] for maps in outs[0]], device=outs[0][0].device)
        levels = []
        for level, maps in enumerate(outs[0]):
            scores = self.scores(maps)
            scores = scores * (scores > self.cfg.get('score_thr', 0))
            raw = flat(outs[1][level], outs[1][level].shape[1] // generator.num_base_priors[level])
            factors = flat(outs[2][level], 1).sigmoid() if len(outs) > 2 and outs[2] is not None else None
            limit = self.limit if self.limit > 0 else scores.shape[1] * scores.shape[2]
            top, box, label = strongest(scores, limit)
            prior = F.embedding(box, priors[level])
            boxes = self.decoded(prior, rows(raw, box), generator.strides[level], sizes)
            if factors is not None:
                top = top * factors.squeeze(-1).gather(1, box)
            levels.append(Found(boxes, top, label))
        return large_enough(joined(levels), self.cfg.get('min_bbox_size', -1))

    def __call__(self, features: Sequence[Tensor], canvas: Any, sizes: Tensor) -> Found:
        """Return the detections of the neck's maps."""
        found = self.candidates(self.head(features), sizes)
        threshold, limit = suppression(self.cfg)
        return best(found, threshold, limit, _longer(canvas))


class ProposalHead(DenseHead):
    """The proposals of a region proposal network: the best of each level, and of all together."""

    def __init__(self, head: Any) -> None:
        if type(head)._predict_by_feat_single is not RPNHead._predict_by_feat_single:
            raise _unknown(head)
        self.head = head
        self.cfg = head.test_cfg
        self.limit = self.cfg.get('nms_pre', -1)

    def __call__(self, features: Sequence[Tensor], canvas: Any, sizes: Tensor) -> Found:
        """Return the proposals; their labels are the levels that they come from."""
        outs = self.head(features)
        generator = self.head.prior_generator
        priors = generator.grid_priors([maps.shape[-2:] for maps in outs[0]], device=outs[0][0].device)
        levels = []
        for level, maps in enumerate(outs[0]):
            top, box, label = strongest(self.scores(maps), self.limit)
            raw = rows(flat(outs[1][level], 4), box)
            prior = F.embedding(box, priors[level])
            boxes = self.decoded(prior, raw, None, sizes)
            levels.append(Found(boxes, top, torch.full_like(label, level)))
        found = large_enough(joined(levels), self.cfg.get('min_bbox_size', -1))
        threshold, limit = suppression(self.cfg)
        return best(found, threshold, limit, _longer(canvas))


class YOLOX:
    """The boxes of YOLOX: of each cell the best class alone."""

    def __init__(self, head: Any) -> None:
        if type(head).predict_by_feat is not YOLOXHead.predict_by_feat:
            raise _unknown(head)
        self.head, self.cfg = head, head.test_cfg

    def __call__(self, features: Sequence[Tensor], canvas: Any, sizes: Tensor) -> Found:
        """Return the detections of the neck's maps."""
        classes, raw, objects = self.head(features)
        priors = self.head.prior_generator.grid_priors(
            [maps.shape[-2:] for maps in classes], device=classes[0].device, with_stride=True
        )
        scores, labels = (
            torch.cat([flat(maps, self.head.cls_out_channels) for maps in classes], 1).sigmoid().max(-1)
        )
        scores = scores * torch.cat([flat(maps, 1) for maps in objects], 1).sigmoid().squeeze(-1)
        boxes = self.head._bbox_decode(torch.cat(priors), torch.cat([flat(maps, 4) for maps in raw], 1))
        found = Found(boxes, scores * (scores >= self.cfg.get('score_thr', 0)), labels)
        threshold, limit = suppression(self.cfg)
        found = best(found, threshold, limit, 3 * _longer(canvas))  # boxes reach beyond the canvas
        return found._replace(boxes=clipped(found.boxes, sizes))


class TwoStage:
    """The boxes of Faster R-CNN: proposals, their features, classes and boxes of each.

    Raises:
        UserError: it has more stages, or other extractors.
    """

    def __init__(self, detector: Any) -> None:
        self.proposals = ProposalHead(detector.rpn_head)
        self.roi = detector.roi_head
        if type(self.roi).__name__ != 'StandardRoIHead' or self.roi.with_shared_head:
            raise _unknown(self.roi)
        if type(self.roi.bbox_roi_extractor).__name__ != 'SingleRoIExtractor':
            raise _unknown(self.roi.bbox_roi_extractor)
        if self.roi.bbox_head.custom_cls_channels or not self.roi.bbox_head.with_reg:
            raise _unknown(self.roi.bbox_head)
        self.cfg = self.roi.test_cfg

    def features(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return each proposal's features, of the level that its size is meant for.

        Args:
            maps: of the neck.
            rois: ``(R, 5)``: the image's place in the batch, x1 y1 x2 y2.
        """
        extractor = self.roi.bbox_roi_extractor
        layers = extractor.roi_layers
        levels = extractor.map_roi_levels(rois, len(layers))
        there = (rois[:, 3] > rois[:, 1]) & (rois[:, 4] > rois[:, 2])
        pixel = rois.new_tensor([0.0, 0.0, 1.0, 1.0])
        total: Any = 0
        for level, layer in enumerate(layers):
            mine = ((levels == level) & there)[:, None]
            # The others' places are a pixel's, the cheapest: without area, OpenVINO would divide by zero.
            box = torch.cat([rois[:, :1], torch.where(mine, rois[:, 1:], pixel)], dim=1)
            out = torch.ops.torchvision.roi_align(
                maps[level], box, layer.spatial_scale, *layer.output_size, layer.sampling_ratio, layer.aligned
            )
            total = total + out * mine[..., None, None]
        return total  # type: ignore[no-any-return]

    def __call__(self, maps: Sequence[Tensor], canvas: Any, sizes: Tensor) -> Found:
        """Return the detections of the neck's maps."""
        proposals = self.proposals(maps, canvas, sizes)
        images, count = proposals.scores.shape
        place = torch.arange(images, device=maps[0].device).to(maps[0])[:, None, None].expand(-1, count, 1)
        rois = torch.cat([place, proposals.boxes], dim=2).reshape(-1, 5)
        head = self.roi.bbox_head
        logits, raw = head(self.features(maps[: len(self.roi.bbox_roi_extractor.roi_layers)], rois))
        scores = F.softmax(logits, dim=-1)[:, :-1]
        classes = scores.shape[1]
        boxed = 1 if head.reg_class_agnostic else classes
        boxes = head.bbox_coder.decode(rois[:, 1:].repeat_interleave(boxed, dim=0), raw.reshape(-1, 4))
        boxes = clipped(boxes.reshape(images, count * boxed, 4), sizes).reshape(images, count, boxed, 4)
        scores = scores.reshape(images, count, classes)
        scores = scores * ((scores > self.cfg.score_thr) & (proposals.scores > 0).unsqueeze(-1))
        labels = torch.arange(classes, device=scores.device).expand(images, count, classes)
        found = Found(
            boxes.expand(-1, -1, classes, -1).reshape(images, -1, 4), scores.flatten(1), labels.flatten(1)
        )
        threshold, limit = suppression(self.cfg)
        return best(found, threshold, limit, _longer(canvas))


def head_of(detector: Any) -> DenseHead | YOLOX | TwoStage:
    """Return what makes boxes of a detector's feature maps.

    Raises:
        UserError: its head is none of those that can be exported.
    """
    if getattr(detector, 'with_mask', False) or getattr(detector, 'mask_head', None) is not None:
        raise UserError(f'{type(detector).__name__}: no export for masks yet, only for boxes')
    if getattr(detector, 'rpn_head', None) is not None and hasattr(detector, 'roi_head'):
        return TwoStage(detector)
    head = getattr(detector, 'bbox_head', None)
    if isinstance(head, YOLOXHead):
        return YOLOX(head)
    if isinstance(head, BaseDenseHead):
        return DenseHead(head)
    raise _unknown(detector if head is None else head)


def suppression(cfg: Any) -> tuple[float, int]:
    """Return the overlap and the number of boxes that a ``test_cfg`` allows.

    Raises:
        UserError: it asks for another suppression than the plain one.
    """
    nms = dict(cfg.get('nms') or {})
    if nms.get('type', 'nms') != 'nms' or nms.get('class_agnostic') or 'iou_threshold' not in nms:
        raise UserError(
            f'test_cfg.nms is {nms}: exported detectors have plain non-maximum suppression; '
            '--cfg-options model.test_cfg.nms="dict(type=\'nms\',iou_threshold=0.5)"'
        )
    return float(nms['iou_threshold']), int(cfg.get('max_per_img', 100))


def large_enough(found: Found, least: float) -> Found:
    """Return boxes with the scores of those set to 0 that are not wider and higher than ``least``."""
    if least < 0:
        return found
    width, height = (found.boxes[..., 2:] - found.boxes[..., :2]).unbind(-1)
    return found._replace(scores=found.scores * ((width > least) & (height > least)))


def clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Return boxes ``(N, K, 4)`` clipped to each image's own area, not to the padding around it.

    Cells over padding that is the same in every image of a data set are never trained and can score high:
    clipped here, before boxes without area are dropped and before non-maximum suppression, their boxes do
    not crowd out others.
    """
    limits = sizes.to(boxes).flip(-1).repeat(1, 2).unsqueeze(1)
    return torch.minimum(boxes.clamp(min=0), limits)


def _longer(canvas: Any) -> Any:
    height, width = canvas
    return max(height, width) if isinstance(height, int) else torch.sym_max(height, width)


def _unknown(part: Any) -> UserError:
    return UserError(
        f'{type(part).__name__}: no export for it: one-stage heads with the post-processing of RetinaNet, '
        'SSD, ATSS, GFL, FCOS, RTMDet or YOLOX have one, and Faster R-CNN'
    )

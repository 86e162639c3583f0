"""Operators of post-processing, in torch and in ONNX's standard ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op('ghost_det::keep_best', mutates_args=())
def keep_best(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Return the places of the boxes that non-maximum suppression leaves, the best ones first.

    Args:
        boxes: ``(N, K, 4)``, x1 y1 x2 y2.
        scores: ``(N, K)``; those of 0 are no candidates.
        iou_threshold: a box that overlaps a better one by more goes.
        limit: how many to return for each image.

    Returns:
        ``(N, limit)`` whole numbers below ``K``, and -1 where no box is left.
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


def translations() -> dict[Any, Callable[..., Any]]:
    """Return, for ``torch.onnx.export``, what stands for the operators that ONNX calls otherwise."""
    from onnxscript import opset18

    op: Any = opset18

    def suppress(boxes: Any, scores: Any, iou_threshold: float, limit: int) -> Any:
        threshold, zero = op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.0])
        most, one = op.Constant(value_ints=[limit]), op.Constant(value_ints=[1])
        chosen = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, one), most, threshold, zero)
        image = op.Slice(chosen, op.Constant(value_ints=[0]), one, one)
        place = op.Slice(chosen, op.Constant(value_ints=[2]), op.Constant(value_ints=[3]), one)
        found = op.GatherND(scores, op.Concat(image, place, axis=1))
        # What was chosen comes in one list over all images, whose length the data decide: a row for each
        # image with the others' scores hidden, and enough more for as many as are wanted.
        images = op.Range(
            op.Constant(value_int=0),
            op.Squeeze(op.Shape(scores, end=1), op.Constant(value_ints=[0])),
            op.Constant(value_int=1),
        )
        own = op.Equal(op.Unsqueeze(images, one), op.Reshape(image, op.Constant(value_ints=[1, -1])))
        table = op.Where(own, found, op.Constant(value_float=-1.0))
        more = op.Concat(op.Shape(scores, end=1), most, axis=0)
        padded = op.Concat(table, op.Expand(op.Constant(value_float=-1.0), more), axis=1)
        best, column = op.TopK(padded, most, axis=1)
        places = op.Concat(
            op.Reshape(place, op.Constant(value_ints=[-1])), op.Constant(value_ints=[-1] * limit), axis=0
        )
        return op.Where(
            op.Greater(best, op.Constant(value_float=0.0)),
            op.Gather(places, column),
            op.Constant(value_int=-1),
        )

    def align(
        features: Any,
        rois: Any,
        spatial_scale: float,
        pooled_height: int,
        pooled_width: int,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        one = op.Constant(value_ints=[1])
        boxes = op.Slice(rois, one, op.Constant(value_ints=[5]), one)
        images = op.Cast(
            op.Reshape(op.Slice(rois, op.Constant(value_ints=[0]), one, one), op.Constant(value_ints=[-1])),
            to=7,
        )
        return op.RoiAlign(
            features,
            boxes,
            images,
            coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
            output_height=pooled_height,
            output_width=pooled_width,
            sampling_ratio=max(sampling_ratio, 0),
            spatial_scale=spatial_scale,
        )

    return {
        torch.ops.ghost_det.keep_best.default: suppress,
        torch.ops.torchvision.roi_align.default: align,
    }

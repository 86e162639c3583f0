"""mmcv's operators, those that RetinaNet, the R-CNNs, FCOS, ATSS and SSD call, on torch and torchvision.

They keep the signatures of the C++ operators, so the buffers that mmcv allocates (``output``, ``argmax``,
``grad_input``, ``dets``) are filled in place. They run on the CPU and on GPUs; float16 and
bfloat16 tensors are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision  # type: ignore[import-untyped]  # noqa: F401  # loads torch.ops.torchvision
from torch import Tensor


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _overlaps(a: Tensor, b: Tensor, offset: int = 0, of_first: bool = False) -> Tensor:
    """IoU of boxes ``(..., 4)`` that broadcast, or the part of ``a`` that is covered (``of_first``)."""
    lower, upper = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (upper - lower + offset).clamp(min=0).prod(-1)
    area = (a[..., 2:] - a[..., :2] + offset).prod(-1)
    if not of_first:
        area = area + (b[..., 2:] - b[..., :2] + offset).prod(-1) - shared
    return shared / area


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Fill ``ious`` ``(m, n)``, or ``(m,)`` if ``aligned``, for boxes ``(m, 4)`` and ``(n, 4)``.

    ``mode`` 0 is intersection over union, 1 over the first box. A side is ``x2 - x1 + offset`` pixels.
    """
    first, second = _wide(bboxes1), _wide(bboxes2)
    ious.copy_(_overlaps(first if aligned else first[:, None], second, offset, of_first=mode == 1))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices ``(k,)`` of the boxes ``(n, 4)`` that stay, best score first.

    A box goes if its IoU with a better one is greater than ``iou_threshold``. Of equal scores the first wins.
    """
    boxes = _wide(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # torchvision holds a float32 IoU against a float64 threshold: 0.6 would suppress an IoU of exactly 0.6.
    threshold = boxes.new_tensor(iou_threshold).item()
    keep: Tensor = torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)
    return keep


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap a better one (Bodla et al., 2017, section 3).

    ``method`` 0 zeroes and 1 scales a score by ``1 - IoU`` from ``iou_threshold`` on; 2 scales every score by
    ``exp(-IoU² / sigma)``. Boxes that fall below ``min_score`` are dropped. Boxes ``(n, 4)`` and their
    final scores go to the first k rows of ``dets`` ``(n, 5)``, in the order of choice.

    Returns:
        Indices ``(k,)`` of these boxes.
    """
    boxes, scores = _wide(boxes), _wide(scores).clone()
    rest = torch.arange(len(boxes), device=boxes.device)
    chosen = []
    while len(rest):
        at = int(scores[rest].argmax())
        best = int(rest[at])
        # The C++ operator swaps the best to the front; of equal scores, the order after that decides.
        rest[at] = rest[0]
        rest = rest[1:]
        chosen.append(best)
        iou = _overlaps(boxes[best], boxes[rest], offset)
        if method == 2:
            factor = (-(iou * iou) / sigma).exp()
        else:
            factor = torch.where(iou >= iou_threshold, 1 - iou if method == 1 else torch.zeros_like(iou), 1)
        scores[rest] *= factor
        rest = _fill_gaps(rest, ~(scores[rest] < min_score))
    keep = torch.tensor(chosen, dtype=torch.long, device=boxes.device)
    dets[: len(keep)] = torch.cat((boxes[keep], scores[keep, None]), 1)
    return keep


def _fill_gaps(rest: Tensor, keep: Tensor) -> Tensor:
    """Drop entries as the C++ operator does, which moves the last one into each gap."""
    count = int(keep.sum())
    head = rest[:count].clone()
    head[~keep[:count]] = rest[count:][keep[count:]].flip(0)
    return head


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group detections ``(n, 5)``, boxes and scores, by the best one that they overlap.

    Each group holds the index of a box that NMS keeps, then of those whose IoU with it is at least
    ``iou_threshold``, best score first.
    """
    boxes = _wide(dets)[:, :4]
    rest = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        near = _overlaps(boxes[best], boxes[rest]) >= iou_threshold
        groups.append([int(best), *rest[near].tolist()])
        rest = rest[~near]
    return groups


def _check_roi_align(rois: Tensor, pool_mode: int, aligned: bool) -> None:
    if pool_mode == 0:
        raise NotImplementedError(
            "RoIAlign: ghost_det has no stand-in for pool_mode='max'. Use 'avg', or a compiled mmcv."
        )
    # As in C++, where the GPU operator does not look either: it would have to wait for the result.
    if aligned and rois.device.type == 'cpu':
        bad = rois[(rois[:, 3:] < rois[:, 1:3]).any(1)].tolist()
        if bad:
            raise ValueError(f'RoIAlign: RoI (image, x1, y1, x2, y2) {bad[0]} has a negative side.')


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average each bin of each RoI into ``output`` ``(r, c, h, w)`` (He et al., Mask R-CNN, 2017).

    ``input`` is ``(b, c, H, W)``; ``rois`` ``(r, 5)`` are ``(image, x1, y1, x2, y2)`` in pixels of the image.

    Raises:
        NotImplementedError: ``pool_mode`` is 0, max pooling.
        ValueError: an aligned RoI has a negative size (CPU only).
    """
    _check_roi_align(rois, pool_mode, aligned)
    features = _wide(input)
    output.copy_(
        torch.ops.torchvision.roi_align(
            features,
            rois.to(features.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of `roi_align_forward` to ``grad_input`` ``(b, c, H, W)``."""
    _check_roi_align(rois, pool_mode, aligned)
    grad = _wide(grad_output)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad,
        rois.to(grad.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` ``(r, c, h, w)`` with the maximum of each bin (Girshick, Fast R-CNN, 2015).

    ``input`` is ``(b, c, H, W)``; ``rois`` ``(r, 5)`` are ``(image, x1, y1, x2, y2)`` in pixels of the image.
    ``argmax`` ``(r, c, h, w)`` gets the cell of the maximum, ``y * W + x``; -1 for an empty bin.
    """
    # Not torchvision's roi_pool: it rounds a RoI to whole cells, mmcv cuts the bins from the RoI as it is.
    height, width = input.shape[2:]
    boxes = _wide(rois)
    start, end = boxes[:, 1:3] * spatial_scale, (boxes[:, 3:] + 1) * spatial_scale
    x_low, x_high = _bins(start[:, 0], end[:, 0], pooled_width, width)
    y_low, y_high = _bins(start[:, 1], end[:, 1], pooled_height, height)
    planes = input.flatten(2)
    for roi, image in enumerate(rois[:, 0].long().tolist()):
        y, x = _cells(y_low[roi], y_high[roi], height), _cells(x_low[roi], x_high[roi], width)
        cells = (y[:, None, :, None] * width + x[None, :, None, :]).flatten(2)
        best, at = planes[image][:, cells].max(-1)
        where = cells.expand(len(at), -1, -1, -1).gather(-1, at[..., None])[..., 0]
        empty = (y_high <= y_low)[roi, :, None] | (x_high <= x_low)[roi]
        output[roi] = best.masked_fill(empty, 0)
        argmax[roi] = where.masked_fill(empty, -1)


def _bins(start: Tensor, end: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """First cell, and first cell after the last, of each bin along one axis: two of ``(r, count)``."""
    step = (end - start)[:, None] / count
    edges = torch.arange(count, device=start.device)
    low = (edges * step + start[:, None]).floor().clamp(0, limit).long()
    high = ((edges + 1) * step + start[:, None]).ceil().clamp(0, limit).long()
    return low, torch.where(step > 0, high, low)


def _cells(low: Tensor, high: Tensor, limit: int) -> Tensor:
    """Cells of bins ``(n,)``, ``(n, longest)``: a shorter bin repeats its last, which changes no maximum."""
    longest = max(int((high - low).max()), 1)
    cells = low[:, None] + torch.arange(longest, device=low.device)
    return cells.minimum(high[:, None] - 1).clamp(0, limit - 1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of `roi_pool_forward` to ``grad_input`` ``(b, c, H, W)``, which is contiguous."""
    channels, height, width = grad_input.shape[1:]
    planes = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    cells = planes[:, :, None, None] * (height * width) + argmax
    found = argmax >= 0
    grad_input.view(-1).index_add_(0, cells[found], grad_output[found])


def _sigmoid_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of the right answer ``(n, c)``, its sign against ``input``, and the weight of its loss."""
    classes = input.size(1)
    if target.numel() and int(target.max()) > classes:
        raise ValueError(
            f'sigmoid_focal_loss: target holds label {int(target.max())}, but there are {classes} classes '
            f'(0 to {classes - 1}, and {classes} for background). Compare num_classes with the data.'
        )
    logits = _wide(input)
    is_class = target[:, None] == torch.arange(classes, device=target.device)
    sign = is_class.to(logits.dtype) * 2 - 1
    scale = torch.where(is_class, logits.new_tensor(alpha), logits.new_tensor(1 - alpha))
    return logits * sign, sign, scale * weight[target][:, None] if weight.numel() else scale


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` ``(n, c)`` for logits ``(n, c)`` (Lin et al., Focal Loss, 2017, equation 5).

    ``target`` ``(n,)`` holds labels 0 to c, c being background; ``weight`` is ``(c,)``, by label, or empty.
    Computed from the logit: it stays exact where C++, from the float32 probability, jumps to log 0 (87).

    Raises:
        ValueError: a label is greater than c.
    """
    right, _, scale = _sigmoid_terms(input, target, weight, alpha)
    output.copy_(-scale * (-right).sigmoid() ** gamma * F.logsigmoid(right))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` ``(n, c)`` with the derivative of `sigmoid_focal_loss_forward`."""
    right, sign, scale = _sigmoid_terms(input, target, weight, alpha)
    wrong = (-right).sigmoid()
    slope = wrong**gamma * (gamma * right.sigmoid() * F.logsigmoid(right) - wrong)
    grad_input.copy_(sign * scale * slope)


def _softmax_terms(
    softmax: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities ``(n, c)``, that of each target ``(n,)``, and the weight of its loss; 0 if ignored."""
    softmax, label = _wide(softmax), target.clamp(min=0)
    chosen = softmax.gather(1, label[:, None])[:, 0].clamp(min=torch.finfo(torch.float32).tiny)
    scale = alpha * (target >= 0).to(softmax.dtype)
    return softmax, chosen, scale * weight[label] if weight.numel() else scale


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` ``(n,)`` for probabilities ``(n, c)`` and ``target`` ``(n,)``, 0 to c - 1.

    A negative target is ignored; ``weight`` is ``(c,)``, by label, or empty.
    """
    _, chosen, scale = _softmax_terms(softmax, target, weight, alpha)
    output.copy_(-scale * (1 - chosen) ** gamma * chosen.log())


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input`` ``(n, c)``, by the logits, and ``buff`` ``(n,)``, its factor common to a sample."""
    probability, chosen, scale = _softmax_terms(softmax, target, weight, alpha)
    # gamma < 1 divides by this, at a chosen probability of 1, where the whole term vanishes.
    wrong = (1 - chosen).clamp(min=torch.finfo(torch.float32).tiny)
    factor = scale * (gamma * wrong ** (gamma - 1) * chosen * chosen.log() - wrong**gamma)
    is_class = target[:, None] == torch.arange(probability.size(1), device=target.device)
    buff.copy_(factor)
    grad_input.copy_(factor[:, None] * (is_class.to(probability.dtype) - probability))


STAND_INS: dict[str, Callable[..., Any]] = {
    'bbox_overlaps': bbox_overlaps,
    'get_compiler_version': lambda: 'n/a',
    'get_compiling_cuda_version': lambda: 'n/a',
    'nms': nms,
    'nms_match': nms_match,
    'roi_align_backward': roi_align_backward,
    'roi_align_forward': roi_align_forward,
    'roi_pool_backward': roi_pool_backward,
    'roi_pool_forward': roi_pool_forward,
    'sigmoid_focal_loss_backward': sigmoid_focal_loss_backward,
    'sigmoid_focal_loss_forward': sigmoid_focal_loss_forward,
    'softmax_focal_loss_backward': softmax_focal_loss_backward,
    'softmax_focal_loss_forward': softmax_focal_loss_forward,
    'softnms': softnms,
}

"""Networks without weights that take the time of trained ones: their activations and their scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghost_det.errors import UserError
from ghost_det.swap.probe import build_detector

Image = np.ndarray[Any, np.dtype[np.uint8]]

CANDIDATES = 200
"""Scores above a detector's own threshold, of an image: as many as trained ones leave."""
SETTLED = 256
"""Side of the images for the norms: larger than a test's, so that coarse maps have more than one value."""
SPREAD = 2.0
"""Standard deviation of logits."""


@torch.no_grad()
def settle(model: nn.Module, images: torch.Tensor, **arguments: Any) -> None:
    """Set the statistics of batch norms to those of ``images``, for untrained networks.

    Without, activations of a deep untrained network fade to numbers so small that their arithmetic takes
    another time than that of a trained one, and that INT8 has no scale for.

    Args:
        model: changed in place, and left in evaluation mode.
        images: a batch of two or more.
        arguments: of the forward pass beside the images.
    """
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    model(images, **arguments)
    for norm, momentum in zip(norms, momenta):
        norm.eval().momentum = momentum


def build(cfg: Any, image: Image, candidates: int | None = CANDIDATES) -> tuple[Any, int]:
    """Build a detector, untrained, whose norms fit random images and whose scores fit an image.

    Args:
        cfg: of the detector; its weights are not loaded.
        image: of the size of the detector's input.
        candidates: of the image; ``None`` lets all scores be about the middle of their range, as of a
            network that nothing initialised: the worst that post-processing can meet.

    Returns:
        The detector, and how many candidates there are.

    Raises:
        UserError: it is no detector of one stage, or cannot be built.
    """
    if 'bbox_head' not in cfg.model:
        raise UserError(
            f'{cfg.filename}: the config of a one-stage detector (with model.bbox_head) is wanted'
        )
    torch.manual_seed(0)
    detector = build_detector(cfg.model)
    noise = np.random.default_rng(1).integers(0, 256, (4, SETTLED, SETTLED, 3), dtype=np.uint8)
    data = prepared(detector, noise)
    settle(detector, data['inputs'], data_samples=data['data_samples'], mode='tensor')
    return detector, adjust_scores(detector, image, candidates)


def prepared(detector: Any, images: Image) -> dict[str, Any]:
    """Return images ``(N, H, W, 3)`` as the detector's own preprocessor gives them to its network."""
    from mmdet.structures import DetDataSample

    side = images.shape[1:3]
    meta = dict(img_shape=side, ori_shape=side, scale_factor=(1.0, 1.0), pad_shape=side)
    data = {
        'inputs': list(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()),
        'data_samples': [DetDataSample(metainfo=dict(meta)) for _ in images],
    }
    found: dict[str, Any] = detector.data_preprocessor(data, False)
    return found


@torch.no_grad()
def adjust_scores(detector: Any, image: Image, candidates: int | None) -> int:
    """Scale and shift what all scores depend on until so many of an image's pass the threshold.

    Returns:
        How many do.
    """
    made: dict[int, nn.Conv2d] = {}
    hooks = [
        module.register_forward_hook(lambda layer, _, output: made.update({id(output): layer}))
        for module in detector.bbox_head.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        data = prepared(detector, image[None])
        outputs = detector(data['inputs'], data['data_samples'], mode='tensor')
    finally:
        for hook in hooks:
            hook.remove()
    head = detector.bbox_head
    softmax = not getattr(head, 'use_sigmoid_cls', True)
    has_objectness = hasattr(head, 'multi_level_conv_obj')  # YOLOX's
    changed = outputs[2] if has_objectness else outputs[0]
    if any(id(level) not in made for level in changed):
        raise UserError(
            f"{type(head).__name__}: its scores are no convolution's output: cannot be timed as if trained"
        )
    logits = torch.cat([_rows(level, 1 if has_objectness else head.cls_out_channels) for level in changed])
    classes = torch.cat([_rows(level, head.cls_out_channels) for level in outputs[0]])
    gain = float(SPREAD / logits.std().clamp_min(1e-9))

    def count(shift: float) -> int:
        moved = gain * logits
        if softmax:
            moved[:, -1] -= shift  # the background, of which there is then less
            scores = moved.softmax(1)[:, :-1]
        else:
            scores = (moved + shift).sigmoid()
        if has_objectness:
            scores = scores * classes.sigmoid().amax(1, keepdim=True)
        return int((scores > detector.test_cfg.score_thr).sum())

    shift = -gain * float(logits.median()) if candidates is None else _least(count, candidates)
    for layer in {id(each): each for each in (made[id(level)] for level in changed)}.values():
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
        layer.weight *= gain
        layer.bias *= gain
        if softmax:
            layer.bias.view(-1, head.cls_out_channels)[:, -1] -= shift
        else:
            layer.bias += shift
    for layer in getattr(head, 'rtm_reg', ()):
        layer.bias += 2  # RTMDet's distances are negative in vain: NMS would have no boxes to compare
    return count(shift)


def _rows(level: Tensor, channels: int) -> Tensor:
    return level[0].reshape(-1, channels, *level.shape[2:]).permute(0, 2, 3, 1).reshape(-1, channels)


def _least(count: Callable[[float], int], wanted: int) -> float:
    low, high = -60.0, 60.0
    for _ in range(24):  # to about 1e-5: a margin over what another order of sums changes
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return high

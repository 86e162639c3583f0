"""Parameters and multiply-adds of a detector, part by part."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import nn


def build_detector(cfg: Any) -> Any:
    """Build the detector of a config, untrained, in evaluation mode."""
    DefaultScope.get_instance('ghost_det', scope_name=cfg.get('default_scope', 'mmdet'))
    return MODELS.build(cfg.model).eval()


@torch.no_grad()
def complexity(detector: Any, height: int, width: int) -> dict[str, tuple[int, int]]:
    """Count parameters and multiply-adds of convolutions and matrix products, as papers do.

    Args:
        detector: an mmdet detector.
        height: of the input, in pixels.
        width: of the input, in pixels.

    Returns:
        part of the detector (``backbone``, ``neck``, ...) to (parameters, multiply-adds); those of
        heads that work on proposals are for the ones that untrained weights propose.
    """
    parts = {name: part for name, part in detector.named_children() if _parameters(part)}
    macs = dict.fromkeys(parts, 0)

    def counter(name: str) -> Any:
        def count(module: Any, inputs: Any, output: Any) -> None:
            # One product for each weight that an output value depends on: weight[0] is one output channel's.
            macs[name] += output.numel() * module.weight[0].numel()

        return count

    hooks = [
        module.register_forward_hook(counter(name))
        for name, part in parts.items()
        for module in part.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        detector(torch.zeros(1, 3, height, width), [_sample(height, width)], mode='tensor')
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (_parameters(part), macs[name]) for name, part in parts.items()}


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _sample(height: int, width: int) -> Any:
    from mmdet.structures import DetDataSample

    shape = (height, width)
    return DetDataSample(
        metainfo=dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
    )

"""Parameters and multiply-adds of detectors, part by part, and of classifiers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from ghost_det.weights.zoo import CLASSIFIERS, classifier


def build_detector(cfg: Any) -> Any:
    """Build the detector of a config, untrained, in evaluation mode."""
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    return MODELS.build(cfg.model).eval()


@torch.no_grad()
def complexity(detector: Any, height: int, width: int) -> dict[str, tuple[int, int]]:
    """Count parameters and multiply-adds of convolutions and matrix products, as papers do, part by part.

    Those of heads that work on proposals are for the ones that untrained weights propose.
    """
    parts = {name: part for name, part in detector.named_children() if _parameters(part)}
    with contextlib.ExitStack() as stack:
        counts = {name: stack.enter_context(count_macs(part)) for name, part in parts.items()}
        detector(torch.zeros(1, 3, height, width), [_sample(height, width)], mode='tensor')
    return {name: (_parameters(part), counts[name].total()) for name, part in parts.items()}


@contextlib.contextmanager
def count_macs(module: nn.Module) -> Iterator[Counter[str]]:
    """Yield a counter of the multiply-adds of each convolution and linear layer that runs in the context."""
    macs: Counter[str] = Counter()

    def counter(name: str) -> Any:
        def count(layer: Any, inputs: Any, output: Any) -> None:
            # One product for each weight that an output value depends on: weight[0] is one output channel's.
            macs[name] += output.numel() * layer.weight[0].numel()

        return count

    hooks = [
        layer.register_forward_hook(counter(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        yield macs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def classifier_table() -> str:
    """Return a Markdown table of every classifier's size beside what the papers print, at 224 px.

    Multiply-adds are those of the network folded for deployment, as the papers count.
    """
    rows = [
        '| variant | tensors | parameters (M) | folded (M) | paper (M) | multiply-adds (M) | paper (M) |',
        '|---|---|---|---|---|---|---|',
    ]
    for name, entry in CLASSIFIERS.items():
        if name.endswith('1x'):
            continue
        model = classifier(name).eval()
        tensors, training = len(model.state_dict()), _parameters(model)
        model.switch_to_deploy()
        with count_macs(model) as macs:
            model(torch.zeros(1, 3, 224, 224))
        rows.append(
            f'| {name} | {tensors} | {training / 1e6:.2f} | {_parameters(model) / 1e6:.2f} '
            f'| {entry.params or "?"} | {macs.total() / 1e6:.1f} | {entry.macs or "?"} |'
        )
    return '\n'.join(rows)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _sample(height: int, width: int) -> Any:
    from mmdet.structures import DetDataSample

    shape = (height, width)
    return DetDataSample(
        metainfo=dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
    )

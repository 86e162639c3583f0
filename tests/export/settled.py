"""Detectors that find things without a training: random weights, with the spread that trained ones have."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghost_det.config.load import load_config
from ghost_det.swap.probe import build_detector
from tests.conftest import ROOT

HEIGHT, WIDTH = 128, 160


def canvases(count: int = 2, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray[Any, Any]:
    """Blocks of random colours."""
    blocks = np.random.default_rng(0).integers(0, 255, (count, height // 16, width // 16, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((1, 16, 16, 1), np.uint8))


def photos() -> list[np.ndarray[Any, Any]]:
    """Parts of `canvases` in the shapes that cameras have: 4:3, 3:4, 16:9 and square."""
    shapes = ((96, 128), (128, 96), (90, 160), (128, 128))
    return [canvases()[0][:height, :width] for height, width in shapes]


def settled(name: str, **options: Any) -> tuple[Any, Any]:
    """Return a config and its detector, whose norms and last layers are fitted to `canvases` and `photos`."""
    torch.manual_seed(1)
    cfg = load_config(str(ROOT / name) if '::' not in name else name, options)
    init_default_scope('mmdet')
    detector: Any = build_detector(cfg.model)
    # Also images that were resized: to norms that saw none, their smooth edges are unlike anything.
    images = [*canvases(), *(cv2.resize(each, (WIDTH, HEIGHT)) for each in photos())]
    images = [torch.from_numpy(each.transpose(2, 0, 1).copy()) for each in images]
    x = detector.data_preprocessor(dict(inputs=images, data_samples=None), False)['inputs']
    head = getattr(detector, 'bbox_head', None) or detector.rpn_head
    layers = [each for each in detector.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    norms = [each for each in detector.modules() if isinstance(each, _BatchNorm)]
    with torch.no_grad():
        for layer in layers:
            if layer.bias is None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        for _ in range(2):
            head(detector.extract_feat(x))
        for norm in norms:
            norm.eval()
            # Channels that are nearly constant here would blow up any other image, and rounding.
            norm.running_var.clamp_(min=0.05)
        made: dict[int, Any] = {}

        def note(layer: Any, _: Any, out: Any) -> None:
            made[id(out)] = layer, out

        hooks = [each.register_forward_hook(note) for each in layers]
        outs = head(detector.extract_feat(x))
        for hook in hooks:
            hook.remove()
        seen = set()
        for kind, maps in enumerate(outs):
            for each in maps or []:
                layer, out = made.get(id(each), (None, None))
                if layer is not None and layer not in seen:
                    seen.add(layer)
                    layer.weight.div_(out.std() * (1 if kind != 1 else 2))
                    layer.bias.fill_(-3.0 if kind == 0 else 0.5)
        roi_head = getattr(detector, 'roi_head', None)
        if roi_head is not None:
            nn.init.normal_(roi_head.bbox_head.fc_cls.weight, std=0.1)
    return cfg, detector

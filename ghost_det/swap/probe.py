"""Detectors and their parts, built from a config and run without weights or data: shapes and costs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmdet.models import SSDHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ghost_det.errors import UserError
from ghost_det.models import GhostNet

from .flops import FlopCounterMode, count_within

SIDE = 128  # pixels of the square image on which shapes are measured
LARGEST = 1024  # SSD's neck needs larger maps than those of 128 pixels, and some are made for only 1024
PROPOSALS = 8  # of a first stage; a thousand, as is usual, take a mask head most of a minute

Parts = dict[str, tuple[int, int | None]]
"""Part of a detector to (parameters, multiply-adds); ``None`` if they were not counted."""


class Map(NamedTuple):
    """A feature map: its channels, and the pixels of the input per cell."""

    channels: int
    stride: int


def without_sync_bn(cfg: Any) -> Any:
    """Return a copy of a config with ``BN`` for ``MMSyncBN``, which only a group of processes can build."""
    if isinstance(cfg, Mapping):
        kept = {key: without_sync_bn(value) for key, value in cfg.items()}
        if kept.get('type') == 'MMSyncBN':
            kept['type'] = 'BN'
        return ConfigDict(kept) if isinstance(cfg, ConfigDict) else kept
    if isinstance(cfg, list | tuple):
        return type(cfg)(map(without_sync_bn, cfg))
    return copy.deepcopy(cfg)


def without_weights(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return a backbone's config that loads nothing, neither when built nor when initialised."""
    return {key: value for key, value in backbone.items() if key not in ('init_cfg', 'pretrained')}


def build_part(cfg: Any) -> Any:
    """Build a backbone or neck in evaluation mode, without loading anything."""
    built = MODELS.build(without_sync_bn(without_weights(cfg) if isinstance(cfg, Mapping) else cfg))
    built.eval()  # mmdet's ResNet returns nothing
    return built


def build_detector(model: Mapping[str, Any]) -> Any:
    """Build a detector in evaluation mode, without loading anything and without its teacher."""
    if DefaultScope.get_current_instance() is None:
        DefaultScope.get_instance('ghost_det', scope_name='mmdet')
    cfg = without_sync_bn(dict(model))
    if any(key.startswith('teacher') for key in cfg):
        cfg = {key: value for key, value in cfg.items() if 'teacher' not in key}
        cfg['type'] = 'SingleStageDetector'
    if 'backbone' in cfg:
        cfg['backbone'] = without_weights(cfg['backbone'])
    return fix_ssd(MODELS.build(cfg)).eval()


def fix_ssd(detector: Any) -> Any:
    """Let SSD predict: the base of heads asks for ``loss_cls``, which SSD's lacks (mmdetection #11063)."""
    for module in detector.modules():
        if isinstance(module, SSDHead) and not hasattr(module, 'loss_cls'):
            module.loss_cls = None
    return detector


@torch.no_grad()
def probe_backbone(backbone: Mapping[str, Any]) -> tuple[Any, list[Map]]:
    """Build a backbone and return it with its maps."""
    built = build_part(backbone)
    maps = built(torch.zeros(1, 3, SIDE, SIDE))
    if not isinstance(maps, list | tuple) or any(not isinstance(m, Tensor) or m.dim() != 4 for m in maps):
        raise UserError(f'{backbone["type"]} returns no list of feature maps')
    return built, [Map(m.shape[1], round(SIDE / m.shape[3])) for m in maps]


@torch.no_grad()
def run_error(detector: Mapping[str, Any]) -> Exception | None:
    """Build and run a detector, on few proposals; return the error, if there is one.

    The later tries are for those whose bare pass needs annotations, or that need more cells of their maps.
    """
    few = copy.deepcopy(dict(detector))
    if (few.get('test_cfg') or {}).get('rpn'):
        few['test_cfg']['rpn']['max_per_img'] = PROPOSALS
    problem = None
    for side, mode in ((SIDE, 'tensor'), (2 * SIDE, 'predict'), (4 * SIDE, 'tensor'), (LARGEST, 'tensor')):
        try:
            build_detector(few)(torch.zeros(1, 3, side, side), [_sample(side, side)], mode=mode)
            return None
        except Exception as error:
            problem = error
    return problem


def _sample(height: int, width: int) -> Any:
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
    border = (0, height, 0, width)
    return DetDataSample(metainfo={**shapes, 'scale_factor': (1.0, 1.0), 'border': border, 'img_id': 0})


@torch.no_grad()
def complexity(detector: Any, height: int, width: int) -> dict[str, tuple[int, int]]:
    """Count parameters and multiply-adds of a detector's parts; those on proposals, for untrained ones."""
    image = torch.zeros(1, 3, height, width, device=next(detector.parameters()).device)
    parts = {part: module for part, module in detector.named_children() if parameters(module)}
    with FlopCounterMode(display=False) as counter, contextlib.ExitStack() as hooks:
        calls = {part: count_within(module, counter, hooks) for part, module in parts.items()}
        detector(image, [_sample(height, width)], mode='tensor')
    return {part: (parameters(module), sum(calls[part]) // 2) for part, module in parts.items()}


def count(detector: Mapping[str, Any], height: int, width: int) -> Parts:
    """Run a detector's parts, folded for deployment, and count their parameters and multiply-adds.

    Multiply-adds that depend on values, as on the proposals of a first stage or on queries, are not counted.
    """
    try:
        with torch.device('meta'):  # which knows shapes and computes nothing
            return _count_built(_build_what_can(detector), height, width)
    except Exception:  # whatever needs a value, as Tensor.item does
        return _count_built(_build_what_can(detector), height, width)


def _build_what_can(detector: Mapping[str, Any]) -> Any:
    """Build a detector, or else only backbone and neck: a head may need packages that are not installed."""
    try:
        return build_detector(detector)
    except Exception:
        parts = {name: detector[name] for name in ('backbone', 'neck') if detector.get(name)}
        return nn.ModuleDict({name: build_part(part) for name, part in parts.items()})


@torch.no_grad()
def _count_built(detector: Any, height: int, width: int) -> Parts:
    if isinstance(detector.backbone, GhostNet):
        detector.backbone.switch_to_deploy()
    found: Parts = {}
    maps = torch.zeros(1, 3, height, width)
    for name, module in detector.named_children():  # backbone and neck come first
        if parameters(module):
            found[name] = (parameters(module), None)
            try:
                out, macs = count_macs(module, maps)
            except Exception:
                if name in ('backbone', 'neck'):
                    raise
                continue  # it takes proposals or queries, not maps
            found[name] = (found[name][0], macs)
            maps = out if name in ('backbone', 'neck') else maps
    return found


def count_macs(module: nn.Module, inputs: Any) -> tuple[Any, int]:
    """Run a module and return its output and multiply-adds, counted as papers do."""
    with FlopCounterMode(display=False) as counter:
        out = module(inputs)
    return out, counter.get_total_flops() // 2


def parameters(module: nn.Module) -> int:
    """Return how many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())

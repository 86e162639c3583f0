"""Detectors and their parts, built from a config and run without weights or data: shapes and costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from mmdet.models import SSDHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ghost_det.config.query import necks
from ghost_det.errors import UserError, reason
from ghost_det.models import GhostNet

from .complexity import complexity, count_macs

T = TypeVar('T')
SIDE = 128
"""Pixels of the square image that shapes are found out with."""
LARGER = (4 * SIDE, 8 * SIDE)
"""Tried where that fails: SSD's neck needs larger maps, and some are made for 1024 pixels alone."""
PROPOSALS = 8
"""Of a first stage; a thousand, as is usual, take a mask head most of a minute."""

Parts = dict[str, tuple[int, int | None]]
"""Part of a detector to (parameters, multiply-adds); ``None`` where they were not counted."""


class Map(NamedTuple):
    """A feature map: its channels, and the pixels of the input per cell."""

    channels: int
    stride: int


def abstract(work: Callable[[], T]) -> T:
    """Return what ``work`` does on the meta device, which knows shapes and computes nothing, or else here."""
    with torch.no_grad():
        try:
            with torch.device('meta'):
                return work()
        except Exception:  # whatever needs a value, as Tensor.item does
            return work()


def without_sync_bn(cfg: Any) -> Any:
    """Return a copy of a config with ``BN`` for ``MMSyncBN``, which a process without others cannot build."""
    if isinstance(cfg, Mapping):
        kept = {key: without_sync_bn(value) for key, value in cfg.items()}
        if kept.get('type') == 'MMSyncBN':
            kept['type'] = 'BN'
        return ConfigDict(kept) if isinstance(cfg, ConfigDict) else kept
    if isinstance(cfg, list | tuple):
        return type(cfg)(map(without_sync_bn, cfg))
    return copy.deepcopy(cfg)


def build_part(cfg: Any) -> Any:
    """Build a backbone or neck in evaluation mode, without loading anything."""
    built = MODELS.build(without_sync_bn(without_weights(cfg) if isinstance(cfg, Mapping) else cfg))
    built.eval()  # mmdet's ResNet returns nothing
    return built


def build_alone(detector: Mapping[str, Any]) -> Any:
    """Build a detector in evaluation mode, without loading anything; a teacher is left out."""
    cfg = without_sync_bn(dict(detector))
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


def without_weights(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return a backbone's config that loads nothing, neither when built nor when initialised."""
    return {key: value for key, value in backbone.items() if key not in ('init_cfg', 'pretrained')}


@torch.no_grad()
def maps_of(backbone: Mapping[str, Any]) -> tuple[Any, list[Map]]:
    """Build a backbone and return it with its maps.

    Raises:
        UserError: what it returns is no list of maps.
    """
    built = build_part(backbone)
    maps = built(torch.zeros(1, 3, SIDE, SIDE))
    if not isinstance(maps, list | tuple) or any(not isinstance(m, Tensor) or m.dim() != 4 for m in maps):
        raise UserError(f'{backbone["type"]} returns no list of feature maps')
    return built, [Map(m.shape[1], round(SIDE / m.shape[3])) for m in maps]


@torch.no_grad()
def shapes_behind(detector: Mapping[str, Any], maps: Sequence[Map]) -> list[tuple[int, ...]]:
    """Return the shapes of what a detector's first neck, if there is one, makes of maps."""
    chain = [build_part(neck) for neck in necks(detector)[:1]]
    for side in (SIDE, *LARGER):
        out: Any = tuple(torch.zeros(1, m.channels, *[-(-side // m.stride)] * 2) for m in maps)
        try:
            for neck in chain:
                out = neck(out)
        except RuntimeError:
            if side == LARGER[-1]:
                raise
        else:
            break
    return [tuple(tensor.shape) for tensor in _tensors(out)]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


@torch.no_grad()
def fault_of(detector: Mapping[str, Any]) -> Exception | None:
    """Build and run a detector, on few proposals; return what goes wrong, if anything does.

    The later tries are for those whose bare pass wants annotations, or that want more cells of their maps.
    """
    few = copy.deepcopy(dict(detector))
    if (few.get('test_cfg') or {}).get('rpn'):
        few['test_cfg']['rpn']['max_per_img'] = PROPOSALS
    fault = None
    for side, mode in ((SIDE, 'tensor'), (2 * SIDE, 'predict'), *((n, 'tensor') for n in LARGER)):
        try:
            _run(build_alone(few), side, mode)
        except Exception as error:
            fault = error
        else:
            return None
    return fault


def _run(detector: Any, side: int, mode: str) -> None:
    shape = (side, side)
    names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    about = dict.fromkeys(names, shape) | dict(scale_factor=(1.0, 1.0), border=(0, side, 0, side), img_id=0)
    detector(torch.zeros(1, 3, side, side), [DetDataSample(metainfo=about)], mode=mode)


def parameter_names(detector: Mapping[str, Any]) -> list[str]:
    """Return the names of a detector's parameters; where it cannot be built, of those of its backbone."""

    def run() -> list[str]:
        try:
            built = build_alone(detector)
        except Exception:
            built = nn.ModuleDict({'backbone': build_part(detector['backbone'])})
        return [name for name, _ in built.named_parameters()]

    return abstract(run)


def count(detector: Mapping[str, Any], height: int, width: int) -> Parts:
    """Count parameters and multiply-adds of a detector's parts, folded for deployment, computing nothing.

    Multiply-adds of what depends on values, as on the proposals of a first stage, are not counted.

    Raises:
        UserError: the backbone does not take images of that size.
    """
    try:
        with torch.device('meta'):
            return dict(complexity(_folded(build_alone(detector)), height, width))
    except Exception:
        try:
            return abstract(lambda: _count_dense(detector, height, width))
        except RuntimeError as error:
            raise UserError(
                f'--size {height} {width}: {detector["backbone"]["type"]} does not take it; multiples of 32 '
                f'are safe ({reason(error)})'
            ) from None


def _folded(detector: Any) -> Any:
    """Fold the branches of our networks, which are for training alone."""
    if isinstance(detector.backbone, GhostNet):
        detector.backbone.switch_to_deploy()
    return detector


def _count_dense(detector: Mapping[str, Any], height: int, width: int) -> Parts:
    try:
        built = build_alone(detector)
    except Exception:
        parts = {name: detector[name] for name in ('backbone', 'neck') if detector.get(name)}
        built = nn.ModuleDict({name: build_part(part) for name, part in parts.items()})
    found: Parts = {}
    for name, part in _folded(built).named_children():
        parameters = sum(p.numel() for p in part.parameters())
        if parameters:
            found[name] = (parameters, None)
    maps = torch.zeros(1, 3, height, width)
    for name in ('backbone', 'neck', 'rpn_head', 'bbox_head'):
        if name not in found:
            continue
        with count_macs(built.get_submodule(name)) as macs:
            try:
                out = built.get_submodule(name)(maps)
            except Exception:
                if name != 'bbox_head':
                    raise
                break  # it takes queries, not maps
        found[name] = (found[name][0], macs.total())
        maps = maps if name == 'rpn_head' else out
    return found

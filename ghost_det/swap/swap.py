"""Another backbone for the config of any detector, checked by running both."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmdet.models import backbones
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ghost_det.config.load import load_config, name_of
from ghost_det.config.query import default_arguments, get_path
from ghost_det.config.write import write_child
from ghost_det.errors import UserError, reason
from ghost_det.models import BACKBONES, NETWORKS
from ghost_det.utils.text import table
from ghost_det.weights.catalog import PUBLISHED, address

from .channels import fit_levels, place_of, rewire
from .probe import LARGEST, Map, count, probe_backbone, run_error
from .settings import CAFFE, IMAGENET, fit_optimizer, forget_checkpoints, use_images

TIMES = dict(GhostNet='1', GhostNetV2='1.2 to 1.6', GhostNetV3='1.3 to 1.5', RepGhostNet='0.7 to 0.9')
"""CPU time relative to GhostNet's in torch, ONNX Runtime and OpenVINO: docs/results.md, The family."""
_BATCH_NORMS = {'BN', 'BN2d', 'SyncBN', 'MMSyncBN'}


class Swap(NamedTuple):
    """A config with another backbone, before and after."""

    source: Any
    config: Any
    name: str  # path of the config, or ``mmdet::NAME``
    place: tuple[str, ...]  # keys that lead to the detector with the backbone
    notes: tuple[str, ...]  # what was set, removed, or is worth a look

    def write(self, out: str | Path, force: bool = False) -> str:
        """Write the config as a child of the old one and return its text; see `write_child`."""
        title = _title(get_path(self.config, self.place).backbone)
        comment = f'{title} in {Path(self.name).name}; made by ghost-det swap.'
        return write_child(out, self.name, self.config, comment, force)

    def table(self, height: int, width: int) -> str:
        """Return parameters and multiply-adds by part, before and after, for an input in pixels.

        Branches that are folded for deployment are counted folded.
        """
        try:
            parts = [count(get_path(cfg, self.place), height, width) for cfg in (self.source, self.config)]
        except RuntimeError as error:
            raise UserError(
                f'--size {height} {width}: the detector does not support it; multiples of 32 are safe '
                f'({reason(error)})'
            ) from None
        counts = {}
        for name in {**parts[0], **parts[1]}:
            params, macs = zip(*(each.get(name, (0, 0)) for each in parts))
            counts[name] = [*params, *macs]
        counts['all'] = [None if None in column else sum(column) for column in zip(*counts.values())]
        units = (1e6, 1e6, 1e9, 1e9)
        rows = [
            [name, *('-' if value is None else f'{value / unit:.2f}' for value, unit in zip(values, units))]
            for name, values in counts.items()
        ]
        head = ['part', 'parameters before (M)', 'after', 'multiply-adds before (G)', 'after']
        text = f'{table(head, rows)}\nmultiply-adds for an input of {height} x {width} pixels'
        if None in counts['all']:
            text += '\n-: not counted, because it depends on the detections (proposals, queries)'
        return text


def family_table(backbone: Mapping[str, Any], height: int, width: int) -> str:
    """Return a table of all networks with the width and levels of ``backbone``, for an input in pixels."""
    rows = []
    for name in NETWORKS:
        cfg = {'type': name, 'width': backbone['width'], 'out_indices': backbone['out_indices']}
        params, macs = count({'backbone': cfg}, height, width)['backbone']
        rows.append([name, f'{params / 1e6:.2f}', f'{(macs or 0) / 1e9:.2f}', TIMES[name]])
    head = [f'at width {backbone["width"]:g}', 'parameters (M)', 'multiply-adds (G)', 'CPU time']
    return f'{table(head, rows)}\nCPU time: relative to GhostNet, at width 1, measured in docs/results.md'


def swap_backbone(
    config: Any,
    backbone: str | Mapping[str, Any] = 'GhostNet',
    pretrained: str | None = None,
    **settings: Any,
) -> Any:
    """Return a config of a detector with another backbone.

    The levels that the neck, or the heads, take stay the same; channels, weights, image normalisation,
    optimizer and imports follow from the new backbone. The detector is built and run before and after, or
    only up to its neck if the rest needs data or packages that are not installed. No weights are loaded.

    Args:
        config: path of a config, ``mmdet::NAME``, or a config, which is not changed.
        backbone: one of ours, as ``'GhostNet'``; any other of mmdet, as ``'ResNet'``; or
            its complete dictionary.
        pretrained: ``'none'``, a published name as ``'ghostnet_100'``, a path, or a URL. By default what is
            published for the network at its width (for ``ResNet``, torchvision's), or nothing.
        **settings: arguments of the backbone, as ``width=1.3``.

    Raises:
        UserError: the backbone is part of the method, or does not fit; the message says why.

    Example:
        >>> base = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        >>> model = swap_backbone(base).model
        >>> model.backbone.init_cfg.checkpoint, model.neck.in_channels
        ('ghost://ghostnet_100', [24, 40, 112, 160])
    """
    return swap(config, backbone, pretrained, **settings).config


def swap(
    config: Any, backbone: str | Mapping[str, Any], pretrained: str | None = None, **settings: Any
) -> Swap:
    """Put another backbone into the config of a detector; see `swap_backbone` for arguments and errors."""
    is_config = isinstance(config, Config)
    name = name_of(config) if is_config else str(config)
    source = config if is_config else load_config(name)
    try:
        with DefaultScope.overwrite_default_scope(source.get('default_scope', 'mmdet')):
            return _swap(source, name, _complete_settings(backbone, settings), pretrained)
    except UserError as error:
        raise UserError(f'{name}: the backbone cannot be swapped: {error}') from error.__cause__


def parse_backbone(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME[:WIDTH]`` of the command line into a name and settings."""
    name, colon, width = text.partition(':')
    try:
        settings = {'width': float(width)} if colon else {}
    except ValueError:
        settings = {'width': math.nan}
    if not name or not 0 < settings.get('width', 1) < math.inf:
        raise UserError(f'--backbone {text}: expected NAME or NAME:WIDTH, such as GhostNet:1.3')
    return name, settings


def _complete_settings(backbone: str | Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a known backbone."""
    cfg = {**(dict(type=backbone) if isinstance(backbone, str) else backbone), **settings}
    if not inspect.isclass(MODELS.get(str(cfg.get('type')))):  # of an installed package it returns the module
        raise UserError(
            f'there is no backbone {cfg.get("type")}; ours are {", ".join(BACKBONES)}; '
            f'those of mmdet {", ".join(backbones.__all__)}'
        )
    return {'type': cfg['type'], 'width': 1.0, **cfg} if cfg['type'] in NETWORKS else cfg


def _swap(source: Any, name: str, settings: dict[str, Any], pretrained: str | None) -> Swap:
    place = place_of(source.model)
    cfg = copy.deepcopy(source)
    detector, was = get_path(cfg, place), get_path(source, place)
    old = detector.backbone
    try:
        built, maps = probe_backbone(old)
    except Exception as error:
        raise UserError(f'it does not run before the swap: {reason(error)}') from error
    init_cfg, weights = _choose_weights(settings, pretrained)
    settings = {key: value for key, value in settings.items() if key != 'init_cfg'}
    new, new_maps = fit_levels(settings, [m.stride for m in maps])
    new |= _kept_settings(settings, old, built, init_cfg is not None)
    rewire(detector, maps, new_maps)
    detector.backbone = {**new, 'init_cfg': init_cfg} if init_cfg else new
    problem = run_error(detector)
    if problem and not run_error(was):
        raise UserError(f'with the new backbone, it does not run: {reason(problem)}') from problem
    if problem:
        try:
            count(detector, LARGEST, LARGEST)  # backbone and neck at least
        except Exception as error:
            raise UserError(f'its neck does not take the new channels: {reason(error)}') from error
    is_caffe = settings.get('style') == 'caffe' or 'caffe' in str((init_cfg or {}).get('checkpoint'))
    notes = [
        f'backbone: {_title(old)} ({_describe(maps)}) -> {_title(settings)} ({_describe(new_maps)})',
        f'weights: {weights}',
        *_lost(old),
        *use_images(cfg, CAFFE if is_caffe else IMAGENET),
        *forget_checkpoints(cfg, place),
        *fit_optimizer(cfg, detector.backbone),
    ]
    if problem:
        notes.append(f'checked only up to the neck; the rest cannot be run: {reason(problem)}')
    if settings['type'] in BACKBONES:
        _import_ghost_det(cfg)
    return Swap(source, cfg, name, place, tuple(notes))


def _lost(old: Mapping[str, Any]) -> list[str]:
    """Return notes on what goes with the old backbone."""
    notes = []
    if max(old.get('dilations') or [1]) > 1:
        notes.append('the dilated last stage had this stride; in the new backbone an earlier stage has it')
    gone = [key for key in ('dcn', 'plugins', 'pretrained', 'last_blocks') if old.get(key)]
    gone += ["style='caffe'"] if old.get('style') == 'caffe' else []
    if isinstance(old.get('backbone'), Mapping):
        gone.append(f'what {old["type"]} does around its {old["backbone"].get("type")}')
    return [*notes, f'dropped with the old backbone: {", ".join(gone)}'] if gone else notes


def _import_ghost_det(cfg: Any) -> None:
    custom = cfg.get('custom_imports') or {}
    names = custom.get('imports') or []
    names = [names] if isinstance(names, str) else names
    if 'ghost_det' not in names:
        cfg.custom_imports = {**custom, 'imports': [*names, 'ghost_det']}


def _title(backbone: Mapping[str, Any]) -> str:
    sizes = [f'{key} {backbone[key]}' for key in ('depth', 'arch', 'width') if key in backbone]
    return ' '.join([str(backbone['type']), *sizes])


def _describe(maps: list[Map]) -> str:
    channels, strides = (' '.join(map(str, values)) for values in zip(*maps))
    return f'channels {channels} at strides {strides}'


def _choose_weights(settings: Mapping[str, Any], pretrained: str | None) -> tuple[Any, str]:
    """Return mmengine's ``init_cfg`` for the new backbone, and a note on it."""
    kind, none = settings['type'], 'none'
    if pretrained is None and settings.get('init_cfg'):
        return settings['init_cfg'], 'as its init_cfg says'
    if pretrained is None and 'init_cfg' not in settings:
        if kind in NETWORKS:
            published = {w.width: w.name for w in PUBLISHED.values() if w.network == kind}
            widths = ', '.join(f'{width:g}' for width in sorted(published))
            none = f'none; {kind} has some at width {widths}, but not for these settings'
            if not settings.keys() & {'ratio', 'dw_size'}:
                pretrained = published.get(settings['width'])
        elif kind == 'ResNet' and settings.get('style') != 'caffe':
            pretrained = f'torchvision://resnet{settings.get("depth")}'
    if pretrained in (None, 'none'):
        return None, f'{none}. From scratch, so that no part of it is frozen'
    checkpoint = address(str(pretrained))
    return dict(type='Pretrained', checkpoint=checkpoint), checkpoint


def _kept_settings(
    settings: Mapping[str, Any], old: Mapping[str, Any], built: Any, pretrained: bool
) -> dict[str, Any]:
    """Return the training settings of the old backbone that the new one takes over, but for its defaults.

    Freezing is only for pretrained weights. Stage n ends at stride 2 ** (n + 1) in ours as in ResNet.
    """
    kept: dict[str, Any] = {'with_cp': bool(old.get('with_cp', False))}
    kept['frozen_stages'] = min(getattr(built, 'frozen_stages', -1), 4) if pretrained else -1
    kept['norm_eval'] = bool(getattr(built, 'norm_eval', False)) and pretrained
    defaults = default_arguments(settings['type'])
    norm, default_norm = old.get('norm_cfg') or {}, defaults.get('norm_cfg') or {}
    if {norm.get('type'), default_norm.get('type')} <= _BATCH_NORMS:
        if pretrained and norm.get('requires_grad') is False:
            kept['norm_cfg'] = dict(type=norm['type'], requires_grad=False)
        elif norm['type'] != default_norm['type']:
            kept['norm_cfg'] = dict(type=norm['type'])
    free = defaults.keys() - settings.keys()
    return {key: value for key, value in kept.items() if key in free and value != defaults[key]}

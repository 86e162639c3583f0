"""Another backbone for the config of any detector, checked by running both."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
from ghost_det.weights.catalog import PUBLISHED, address

from .channels import fit_levels, place_of, rewire
from .probe import Map, count, neck_shapes, probe_backbone, run_error
from .settings import CAFFE, IMAGENET, fit_optimizer, forget_checkpoints, use_images

_BATCH_NORMS = ('BN', 'BN2d', 'SyncBN', 'MMSyncBN')


class Weights(NamedTuple):
    """Where a backbone starts: mmengine's ``init_cfg``, and a note."""

    init_cfg: Any
    note: str


@dataclass(frozen=True)
class Swap:
    """A config with another backbone, and what was done.

    Attributes:
        source: the config as it was.
        config: the config with the new backbone.
        name: path of the config, or ``mmdet::NAME``.
        place: keys that lead to the detector with the backbone.
        notes: what was set, removed, or is worth a look.
    """

    source: Any
    config: Any
    name: str
    place: tuple[str, ...]
    notes: tuple[str, ...]

    def write(self, out: str | Path, force: bool = False) -> str:
        """Write the config as a child of the old one and return its text; see `write_child`."""
        title = _title(get_path(self.config, self.place).backbone)
        comment = f'{title} in {Path(self.name).name}; made by ghost-det swap.'
        return write_child(out, self.name, self.config, comment, force)

    def table(self, height: int, width: int) -> str:
        """Return parameters and multiply-adds by part, before and after, for an input in pixels.

        Branches that are folded for deployment are counted folded.
        """
        before, after = (
            count(get_path(cfg, self.place), height, width) for cfg in (self.source, self.config)
        )
        rows = {name: [*before.get(name, (0, 0)), *after.get(name, (0, 0))] for name in {**before, **after}}
        for row in rows.values():
            if None in row:
                row[1] = row[3] = None
        totals = [None if None in column else sum(column) for column in zip(*rows.values())]
        lines = [
            f'{"":<18}{"parameters (M)":>20}{f"multiply-adds (G), {height} x {width}":>36}',
            f'{"part":<18}{"before":>10}{"after":>10}{"before":>24}{"after":>12}',
        ]
        for name, row in {**rows, 'all': totals}.items():
            params, macs, new_params, new_macs = row
            cells = [(params, 1e6, 10), (new_params, 1e6, 10), (macs, 1e9, 24), (new_macs, 1e9, 12)]
            shown = ['-'.rjust(n) if value is None else f'{value / unit:>{n}.2f}' for value, unit, n in cells]
            lines.append(f'{name:<18}' + ''.join(shown))
        if None in totals:
            lines.append('-: not counted, as it depends on what is found in an image (proposals, queries)')
        return '\n'.join(lines)


def swap_backbone(
    config: Any, backbone: str | Mapping[str, Any], pretrained: str | None = None, **settings: Any
) -> Any:
    """Return a config of a detector with another backbone; see `swap` for arguments and errors.

    Example:
        >>> base = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        >>> model = swap_backbone(base, 'GhostNetV2', width=1.3).model
        >>> model.backbone.init_cfg.checkpoint, model.neck.in_channels
        ('ghost://ghostnetv2_130', [32, 52, 144, 208])
    """
    return swap(config, backbone, pretrained, **settings).config


def swap(
    config: Any, backbone: str | Mapping[str, Any], pretrained: str | None = None, **settings: Any
) -> Swap:
    """Put another backbone into the config of a detector.

    The levels that the neck, or the heads, take stay the same; channels, weights, image normalisation,
    optimizer and imports follow from the new backbone. Backbone and neck are run, before and after, and must
    hand maps of the same shapes on; then the complete detector is run, where that is possible without
    data. No weights are loaded.

    Args:
        config: path of a config, ``mmdet::NAME``, or a config, which is not changed.
        backbone: one of ours, as ``'GhostNetV2'``; any other of mmdet, as ``'ResNet'``; or
            its complete dictionary.
        pretrained: ``'none'``, a published name as ``'ghostnet_100'``, a path, or a URL. By default what is
            published for the network at its width (for ``ResNet``, torchvision's), or nothing.
        **settings: arguments of the backbone, as ``width=1.3``.

    Raises:
        UserError: the backbone is part of the method, or does not fit; the message says why.
    """
    is_config = isinstance(config, Config)
    name = name_of(config) if is_config else str(config)
    source = config if is_config else load_config(name)
    try:
        return _swap(source, name, _settings(backbone, settings), pretrained)
    except UserError as error:
        raise UserError(f'{name}: the backbone cannot be swapped: {error}') from error.__cause__


def parse_backbone(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME[:WIDTH]`` of the command line into a name and settings."""
    name, _, width = text.partition(':')
    if not name:
        raise UserError(f'--backbone {text}: expected NAME or NAME:WIDTH, as GhostNetV2:1.3')
    try:
        settings = {'width': float(width)} if width else {}
    except ValueError:
        settings = {'width': math.nan}
    if not all(0 < value < math.inf for value in settings.values()):
        raise UserError(f'--backbone {text}: expected NAME or NAME:WIDTH, as GhostNetV2:1.3')
    return name, settings


def _settings(backbone: str | Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the dictionary of a known backbone."""
    cfg = dict(type=backbone, **settings) if isinstance(backbone, str) else {**backbone, **settings}
    if not inspect.isclass(MODELS.get(str(cfg.get('type')))):  # of an installed package it returns the module
        raise UserError(
            f'there is no backbone {cfg.get("type")}; ours are {", ".join(BACKBONES)}; '
            f'those of mmdet {", ".join(backbones.__all__)}'
        )
    return {'type': cfg['type'], 'width': 1.0, **cfg} if cfg['type'] in NETWORKS else cfg


def _swap(source: Any, name: str, wanted: dict[str, Any], pretrained: str | None) -> Swap:
    if not DefaultScope.check_instance_created('ghost_det'):
        DefaultScope.get_instance('ghost_det', scope_name=source.get('default_scope', 'mmdet'))
    place = place_of(source.model)
    cfg = copy.deepcopy(source)
    detector, was = get_path(cfg, place), get_path(source, place)
    old = detector.backbone
    # They change no shapes, and may not run here.
    light = {key: value for key, value in old.items() if key not in ('dcn', 'stage_with_dcn')}
    try:
        built, maps = probe_backbone(light)
        shapes = neck_shapes(detector, maps)
    except Exception as error:
        raise UserError(f'it does not run here as it is: {reason(error)}') from error
    weights = _weights(wanted, pretrained)
    wanted = {key: value for key, value in wanted.items() if key != 'init_cfg'}
    fitted, new_maps = fit_levels(wanted, [m.stride for m in maps])
    fitted |= _kept(wanted, old, built, weights.init_cfg is not None)
    notes = [
        f'backbone: {_title(old)} ({_describe(maps)}) -> {_title(wanted)} ({_describe(new_maps)})',
        f'weights: {weights.note}',
    ]
    if max(old.get('dilations') or [1]) > 1:
        notes.append('the dilated last stage had this stride; of the new backbone a stage before has it')
    gone = [key for key in ('dcn', 'plugins', 'pretrained') if old.get(key)]
    gone += ["style='caffe'"] if old.get('style') == 'caffe' else []
    if isinstance(old.get('backbone'), Mapping):
        gone.append(f'what {old["type"]} does around its {old["backbone"].get("type")}')
    if gone:
        notes.append(f'gone with the old backbone: {", ".join(gone)}')
    heads_differ = rewire(detector, maps, new_maps)
    detector.backbone = {**fitted, 'init_cfg': weights.init_cfg} if weights.init_cfg else fitted
    try:
        same = neck_shapes(detector, new_maps) == shapes
    except Exception as error:
        raise UserError(f'its neck does not go with the new channels: {reason(error)}') from error
    if not heads_differ and not same:
        raise UserError('with the new backbone, its neck gives maps of other shapes')
    is_caffe = wanted.get('style') == 'caffe' or 'caffe' in str((weights.init_cfg or {}).get('checkpoint'))
    notes += use_images(cfg, CAFFE if is_caffe else IMAGENET)
    notes += forget_checkpoints(cfg, place)
    problem = run_error(detector)
    if problem and not run_error(was):
        raise UserError(f'with the new backbone, it does not run: {reason(problem)}') from problem
    if problem:
        notes.append(f'checked only up to the neck; what is behind it cannot be run here: {reason(problem)}')
    notes += fit_optimizer(cfg, was, detector, complete=not problem and len(place) == 1)
    if wanted['type'] in BACKBONES:
        custom = cfg.get('custom_imports') or {}
        names = custom.get('imports') or []
        names = [names] if isinstance(names, str) else list(names)
        if 'ghost_det' not in names:
            cfg.custom_imports = {**custom, 'imports': [*names, 'ghost_det']}
    return Swap(source, cfg, name, place, tuple(notes))


def _title(backbone: Mapping[str, Any]) -> str:
    sizes = [f'{key} {backbone[key]}' for key in ('depth', 'arch', 'width') if key in backbone]
    return ' '.join([str(backbone['type']), *sizes])


def _describe(maps: list[Map]) -> str:
    return f'channels {_join(m.channels for m in maps)} at strides {_join(m.stride for m in maps)}'


def _join(items: Iterable[Any]) -> str:
    return ' '.join(map(str, items))


def _weights(wanted: Mapping[str, Any], pretrained: str | None) -> Weights:
    """Choose what the new backbone starts from."""
    kind, why = wanted['type'], 'none'
    if pretrained is None and wanted.get('init_cfg'):
        return Weights(wanted['init_cfg'], 'as its init_cfg says')
    if pretrained is None and 'init_cfg' not in wanted:
        if kind in NETWORKS:
            published = {w.width: w.name for w in PUBLISHED.values() if w.network == kind}
            if not wanted.keys() & {'ratio', 'dw_size'}:
                pretrained = published.get(wanted['width'])
            widths = ', '.join(f'{width:g}' for width in sorted(published))
            why = f'none; {kind} has some at width {widths}, but not as it is asked for here'
        elif kind == 'ResNet' and wanted.get('style') != 'caffe':
            pretrained = f'torchvision://resnet{wanted.get("depth")}'
    if pretrained in (None, 'none'):
        return Weights(None, f'{why}. From scratch, so that nothing of it is frozen')
    checkpoint = address(str(pretrained))
    return Weights(dict(type='Pretrained', checkpoint=checkpoint), checkpoint)


def _kept(wanted: Mapping[str, Any], old: Mapping[str, Any], built: Any, pretrained: bool) -> dict[str, Any]:
    """Return the training settings of the old backbone that the new one takes over, but for its defaults.

    Freezing is only for pretrained weights. Stage n ends at stride 2 ** (n + 1) in ours as in ResNet.
    """
    settings = dict(
        frozen_stages=min(getattr(built, 'frozen_stages', -1), 4) if pretrained else -1,
        norm_eval=bool(getattr(built, 'norm_eval', False)) and pretrained,
        with_cp=bool(old.get('with_cp', False)),
    )
    known = default_arguments(wanted['type'])
    norm = old.get('norm_cfg') or {}
    if norm.get('type') in _BATCH_NORMS and (known.get('norm_cfg') or {}).get('type') in _BATCH_NORMS:
        fixed = pretrained and norm.get('requires_grad') is False
        settings['norm_cfg'] = dict(type=norm['type'], **({'requires_grad': False} if fixed else {}))
    return {
        key: value
        for key, value in settings.items()
        if key in known and key not in wanted and value != _simple(known[key])
    }


def _simple(default: Any) -> Any:
    """Return a default without what says nothing."""
    if isinstance(default, Mapping) and default.get('requires_grad') is True:
        return {key: value for key, value in default.items() if key != 'requires_grad'}
    return default

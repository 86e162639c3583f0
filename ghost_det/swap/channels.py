"""The config between backbone and heads: which maps are taken, at which strides, with how many channels."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ghost_det.config.query import detector_path, get_path, necks
from ghost_det.errors import UserError, reason

from .probe import Map, probe_backbone

METHODS = {
    'HourglassNet': 'the heads are trained on each of its stacked hourglasses',
    'DetectoRS_ResNet': 'DetectoRS is its switchable atrous convolutions and the feedback into it',
    'DetectoRS_ResNeXt': 'DetectoRS is its switchable atrous convolutions and the feedback into it',
    'TridentResNet': 'TridentNet is the three branches of its last stage',
}
"""Backbones that are part of a method, and why."""
NOT_HEADS = ('backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg', 'teacher')


def place_of(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that lead from a config to the detector with the backbone, if that can be swapped."""
    place = detector_path(model)
    detector = get_path({'model': model}, place)
    name, backbone = model.get('type'), detector.get('backbone')
    if not isinstance(name, str):
        raise UserError(
            'its types are classes, as in pure Python configs; expected the text config mmdet::...'
        )
    if name == 'Detectron2Wrapper' or not isinstance(backbone, Mapping):
        raise UserError(f'{name} has no backbone of MMDetection, neither in model nor in model.detector')
    kind = str(backbone.get('type')).split('.')[-1]
    if kind in METHODS:
        raise UserError(f'{kind} is part of the method: {METHODS[kind]}')
    roi_head = detector.get('roi_head') or {}
    if isinstance(roi_head, Mapping) and roi_head.get('shared_head'):
        raise UserError(
            f'roi_head.shared_head ({roi_head["shared_head"].get("type")}) is the last stage of {kind}, run '
            'on each proposal; a variant with a neck (FPN) can be swapped'
        )
    for neck in necks(detector):
        inner = [key for key in neck if 'backbone' in key]
        if inner:
            raise UserError(f'{neck["type"]} runs the backbone again ({inner[0]}): it is part of the method')
    return place


def fit_levels(backbone: Mapping[str, Any], strides: Sequence[int]) -> tuple[dict[str, Any], list[Map]]:
    """Return the config of a backbone that returns one map of each stride, and the maps.

    Of several maps of a stride, the last is taken: the end of the stage.
    """
    name = backbone['type']
    if len(set(strides)) < len(strides):
        raise UserError(f'its backbone has several maps of one stride ({_list(strides)}); {name} has one')
    try:
        built, maps = probe_backbone(backbone)
    except Exception as error:
        raise UserError(f'{name}: cannot be built: {reason(error)}') from error
    indices = backbone.get('out_indices') or getattr(built, 'out_indices', None)
    last = {each.stride: place for place, each in enumerate(maps)}
    counts = iter(range(8, 3, -1) if 'out_indices' not in backbone else ())  # as many stages as it has
    while not last.keys() >= set(strides):
        count = next(counts, None)
        if count is None:
            given = _list(sorted(last))
            raise UserError(f'it needs maps at strides {_list(strides)}, but {name} gives {given}')
        with contextlib.suppress(Exception):  # it has fewer stages
            _, maps = probe_backbone({**backbone, 'out_indices': tuple(range(count))})
            indices, last = range(count), {each.stride: place for place, each in enumerate(maps)}
    chosen = [last[stride] for stride in strides]
    if indices is not None:
        return {**backbone, 'out_indices': tuple(indices[i] for i in chosen)}, [maps[i] for i in chosen]
    if chosen != list(range(len(maps))):
        raise UserError(f'{name} has no out_indices: it returns {len(maps)} maps instead of {len(strides)}')
    return dict(backbone), maps


def rewire(detector: Any, old: Sequence[Map], new: Sequence[Map]) -> None:
    """Put the new channels where a detector's config has the old, in place."""
    before, after = [m.channels for m in old], [m.channels for m in new]
    heads = {key: part for key, part in detector.items() if not key.startswith(NOT_HEADS)}
    chain = necks(detector)
    if not chain:
        found = _replace(heads, before, after)
        if len(before) == 1:
            found |= _replace(heads, before[0], after[0])
        if not found:
            raise UserError(f'no head has in_channels={before}, which its backbone has')
        return
    neck = chain[0]
    taken, given = neck.get('in_channels'), neck.get('out_channels')
    factor = neck.get('widen_factor', 1)
    if isinstance(taken, int) and taken == before[-1]:
        neck['in_channels'] = after[-1]
        return
    for step in (1, -1):  # some necks list the coarsest map first
        have, put = before[::step], after[::step]
        if factor != 1:  # mmyolo's necks multiply by it, and round up to multiples of 8
            have, put = ([int(count / factor) for count in counts] for counts in (have, put))
        if isinstance(taken, list | tuple) and list(taken) == have:
            neck['in_channels'] = type(taken)(put)
            if isinstance(given, list | tuple) and list(given[: len(have)]) == have:
                # SSD's neck hands the maps on and adds its own behind them; YOLOv5's keeps their channels.
                neck['out_channels'] = type(given)([*put, *given[len(have) :]])
                _replace(heads, list(given), list(neck['out_channels']))
            return
    raise UserError(f'{neck.get("type")} has in_channels={taken}, but its backbone has {before}')


def _replace(node: Any, old: Any, new: Any) -> bool:
    """Replace ``old`` as ``in_channels`` or ``out_channels``, at any depth; return whether any was."""
    found = False
    items = list(node.items()) if isinstance(node, Mapping) else list(enumerate(node))
    for key, value in items:
        if key in ('in_channels', 'out_channels'):
            if (list(value) if isinstance(value, tuple) else value) == old:
                node[key] = type(value)(new)
                found = True
        elif isinstance(value, Mapping | list):
            found |= _replace(value, old, new)
    return found


def _list(items: Sequence[int]) -> str:
    return ', '.join(map(str, items))

"""What else in a config depends on its backbone: image normalisation, checkpoints, optimizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ghost_det.config.query import get_path

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
_OWN_IMAGES = ('reid', 'teacher')  # parts of a model that were trained on images as they are
_PER_LAYER = ('decay_rate', 'decay_type', 'num_layers', 'layer_decay_rate')


def use_images(cfg: Any, values: Mapping[str, Any]) -> list[str]:
    """Normalise images as `IMAGENET` or `CAFFE` in all of a config, in place; return notes on it."""
    found = list(_preprocessors(cfg.model))
    if not found and 'backbone' in cfg.model:
        cfg.model.data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32)
        found = [cfg.model.data_preprocessor]
    changed = [each for each in found if any(_as_list(each.get(key)) != values[key] for key in values)]
    if changed and 'mean' in (cfg.get('data_preprocessor') or {}):
        changed.append(cfg.data_preprocessor)  # which Mask2Former's configs have outside of the model, too
    for preprocessor in changed:
        preprocessor.update(copy.deepcopy(dict(values)))
        if preprocessor.get('rgb_to_bgr'):
            preprocessor['rgb_to_bgr'] = False
    for step in _normalisations(list(cfg.values())):
        step.update(mean=values['mean'], std=values['std'], to_rgb=values['bgr_to_rgb'])
    if not changed:
        return []
    order = 'RGB' if values['bgr_to_rgb'] else 'BGR'
    notes = [f'images: {order}, mean {values["mean"]}, std {values["std"]}']
    others = [key for key in cfg.model if key.startswith(_OWN_IMAGES)]
    if others:
        notes.append(f'model.{others[0]} is unchanged, and now gets images normalised for the new backbone')
    return notes


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _preprocessors(node: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the preprocessors of a model that hold no other one."""
    for key, value in node.items():
        if isinstance(value, Mapping) and not key.startswith(_OWN_IMAGES):
            inner = list(_preprocessors(value))
            yield from inner or ([value] if key == 'data_preprocessor' else [])


def _normalisations(node: Any) -> Iterator[Any]:
    """Yield the steps of pipelines that normalise images."""
    if isinstance(node, Mapping):
        if node.get('type') == 'Normalize' and 'mean' in node:
            yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _normalisations(value)


def forget_checkpoints(cfg: Any, place: tuple[str, ...]) -> list[str]:
    """Remove, in place, checkpoints of the complete detector, which have the old backbone; return notes."""
    notes = []
    if cfg.get('load_from'):
        notes.append(f'removed: load_from={cfg.load_from}, of the old backbone (see --keep-weights)')
        cfg.load_from = None
    for end in range(1, len(place) + 1):
        part = get_path(cfg, place[:end])
        if 'Pretrained' in str(part.get('init_cfg')):
            notes.append(f'removed: {".".join(place[:end])}.init_cfg, weights with the old backbone')
            part.init_cfg = None
    return notes


def fit_optimizer(cfg: Any, backbone: Mapping[str, Any]) -> list[str]:
    """Remove, in place, learning rates by layer of the old backbone; return notes."""
    wrapper: Any = cfg.get('optim_wrapper') or {}
    rules = wrapper.get('paramwise_cfg') or {}
    notes = []
    per_layer = [key for key in _PER_LAYER if key in rules]
    if per_layer:
        notes.append(f'removed: {wrapper.get("constructor")}, learning rates by layer of the old backbone')
        wrapper.constructor = 'DefaultOptimWrapperConstructor'
        for key in per_layer:
            del rules[key]
    slow = (rules.get('custom_keys') or {}).get('backbone', {}).get('lr_mult', 1) < 1
    if slow and not backbone.get('init_cfg'):
        notes.append('the optimizer slows the backbone down (lr_mult), which is meant for pretrained ones')
    return notes

"""What a config says about its backbone outside of it: image normalisation, checkpoints, optimizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ghost_det.config.query import get_path

from .probe import parameter_names

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
_EMBEDDINGS = ('absolute_pos_embed', 'relative_position_bias_table')  # Swin's; configs name them unasked
_PER_LAYER = ('decay_rate', 'decay_type', 'num_layers', 'layer_decay_rate')


def use_images(cfg: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Normalise images as `IMAGENET` or `CAFFE` in all of a config, in place; return notes on it."""
    found = list(_preprocessors({'model': cfg.model}))
    if not found and 'backbone' in cfg.model:
        cfg.model.data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32)
        found = [cfg.model.data_preprocessor]
    changed = [p for p in found if any(_plain(p.get(key)) != value for key, value in wanted.items())]
    # Mask2Former's configs name it again outside of the model.
    named = [cfg.data_preprocessor] if 'mean' in (cfg.get('data_preprocessor') or {}) else []
    for preprocessor in changed + (named if changed else []):
        preprocessor.update(copy.deepcopy(dict(wanted)))
        if preprocessor.get('rgb_to_bgr'):
            preprocessor['rgb_to_bgr'] = False
    for step in _normalisations(list(cfg.values())):
        step.update(mean=wanted['mean'], std=wanted['std'], to_rgb=wanted['bgr_to_rgb'])
    if not changed:
        return []
    notes = [
        f'images: {"RGB" if wanted["bgr_to_rgb"] else "BGR"}, mean {wanted["mean"]}, std {wanted["std"]}'
    ]
    others = [key for key in cfg.model if key == 'reid' or key.startswith('teacher')]
    if others:
        notes.append(f'model.{others[0]} is as before, and now gets images normalised for the new backbone')
    return notes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _preprocessors(node: Mapping[str, Any]) -> Iterator[Any]:
    """Find the preprocessors of a model that hold no other one."""
    for key, value in node.items():
        if isinstance(value, Mapping) and key != 'reid' and not key.startswith('teacher'):
            inner = list(_preprocessors(value))
            yield from inner
            if key == 'data_preprocessor' and not inner:
                yield value


def _normalisations(node: Any) -> Iterator[Any]:
    """Find the steps of pipelines that normalise images."""
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
        notes.append(f'removed: load_from={cfg.load_from}, of the old backbone')
        cfg.load_from = None
    for end in range(1, len(place) + 1):
        part = get_path(cfg, place[:end])
        if 'Pretrained' in str(part.get('init_cfg')):
            notes.append(f'removed: {".".join(place[:end])}.init_cfg, weights with the old backbone')
            part.init_cfg = None
    return notes


def fit_optimizer(cfg: Any, old: Mapping[str, Any], new: Mapping[str, Any], complete: bool) -> list[str]:
    """Remove, in place, what the optimizer does to single layers of the old backbone; return notes.

    ``complete`` says that all parameters of the model are the detector's, and that it can be built.
    """
    wrapper = cfg.get('optim_wrapper')
    rules = wrapper.get('paramwise_cfg') if wrapper else None
    if not rules:
        return []
    notes = []
    per_layer = [key for key in _PER_LAYER if key in rules]
    if per_layer:
        notes.append(f'removed: {wrapper.get("constructor")}, learning rates by layer of the old backbone')
        wrapper.constructor = 'DefaultOptimWrapperConstructor'
        for key in per_layer:
            del rules[key]
    keys = rules.get('custom_keys') or {}
    if not keys:
        return notes
    before = [name for name in parameter_names(old) if name.startswith('backbone.')]
    after = parameter_names(new)
    dead = [
        key
        for key in keys
        if (key in _EMBEDDINGS or any(key in name for name in before))
        and not any(key in name for name in after)
        # Other keys may be for parts that are not built here.
        and (complete or key in _EMBEDDINGS or key.startswith('backbone'))
    ]
    for key in dead:
        del keys[key]
    if dead:
        shown = ', '.join(dead[:3]) + (f' and {len(dead) - 3} more' if len(dead) > 3 else '')
        notes.append(f'removed: custom_keys of the optimizer without parameters now: {shown}')
    if keys.get('backbone', {}).get('lr_mult', 1) < 1 and not new['backbone'].get('init_cfg'):
        notes.append('the optimizer slows the backbone down (lr_mult), which is meant for pretrained ones')
    return notes

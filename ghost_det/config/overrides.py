"""What the options of a command and the machine change in a config."""

from __future__ import annotations

import os
from typing import Any

import torch

from ghost_det.errors import UserError
from ghost_det.models import BACKBONES
from ghost_det.utils.system import cores
from ghost_det.weights.catalog import DETECTOR, SCHEME, address

from .query import backbone_of, default_arguments


def share_cores(cfg: Any) -> None:
    """Compute with all cores, and load images with at most half of them; processes of a run share them."""
    share = max(1, cores() // int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(share)
    for name in ('train', 'val', 'test'):
        loader = cfg.get(f'{name}_dataloader')
        if loader is not None:  # each worker is a process that imports everything
            loader.num_workers = min(loader.get('num_workers', 0), max(1, share // 2))


def use_amp(cfg: Any) -> None:
    """Train in mixed precision: fp16 with a dynamic loss scale on a GPU, bfloat16 on a CPU."""
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # arguments of AmpOptimWrapper
            cfg.optim_wrapper.pop(key, None)


def scale_lr(cfg: Any, config: str) -> None:
    """Scale the learning rate from the config's own batch to this run's."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UserError(f'--auto-scale-lr: {config} has no auto_scale_lr.base_batch_size to scale from')
    cfg.auto_scale_lr.enable = True


def stop_early(cfg: Any, patience: int) -> None:
    """End a training once ``patience`` evaluations in a row were not at least 0.001 better.

    The metric is the config's ``save_best``, or mAP, by which the best checkpoint is then saved.
    """
    cfg.default_hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks.checkpoint = cfg.default_hooks.get('checkpoint') or dict(type='CheckpointHook')
    checkpoint = cfg.default_hooks.checkpoint
    if not isinstance(checkpoint.get('save_best'), str) or checkpoint.save_best == 'auto':
        checkpoint.save_best, checkpoint.rule = 'coco/bbox_mAP', 'greater'
    metric = checkpoint.save_best
    rule = checkpoint.get('rule') or ('less' if 'loss' in metric else 'greater')
    best = dict(monitor=metric, rule=rule, strict=True)
    hook = dict(type='EarlyStoppingHook', min_delta=1e-3, patience=patience, **best)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def use_pretrained(cfg: Any, source: str) -> None:
    """Start the backbone from other weights than the config's, or, with ``'none'``, from scratch.

    From scratch, the statistics and stages that the config freezes are trained. Our own detector also starts
    neck and head, where they are of its kind.
    """
    backbone = backbone_of(cfg.model)
    if backbone is None:
        raise UserError(f'--pretrained {source}: the config has no backbone in model or model.detector')
    kind = backbone.type.rpartition('.')[2]
    if source != 'none' and kind not in BACKBONES:
        raise UserError(f'--pretrained {source}: not supported for {kind}; set its init_cfg')
    if str(cfg.get('load_from')).startswith(SCHEME):
        cfg.load_from = None
    if address(source) == SCHEME + DETECTOR and 'GFLSepBNHead' in str(cfg.model.get('bbox_head')):
        backbone.init_cfg, cfg.load_from = None, address(source)
        return
    if source != 'none':
        backbone.init_cfg = dict(type='Pretrained', checkpoint=address(source))
        return
    backbone.init_cfg = None
    known = {**default_arguments(backbone.type), **backbone}  # mmdet's ResNet has norm_eval=True by default
    for key, free in (('norm_eval', False), ('frozen_stages', -1)):
        if key in known:
            backbone[key] = free
    if backbone.get('norm_cfg'):
        backbone.norm_cfg.requires_grad = True

"""What a command, data and machine change in a config: the one place where a run's config is finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ghost_det.errors import UserError
from ghost_det.models import BACKBONES, NETWORKS
from ghost_det.utils.system import cores
from ghost_det.weights.catalog import address

from .load import merge_options
from .query import backbone_of, default_arguments
from .schedules import set_epochs


def finish_config(
    cfg: Any,
    config: str,
    edits: Iterable[Callable[[Any], None]] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    tensorboard: bool = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    pretrained: str | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Make a config, in place, the final one of a run: nothing changes it after this.

    Args:
        cfg: as it was read.
        config: what the user calls it.
        edits: what the caller changes, as the data set.
        epochs: another length of training.
        batch_size: another number of images a step, on each device.
        tensorboard: write TensorBoard logs as well.
        amp: mixed precision.
        auto_scale_lr: scale the learning rate to this run's batch.
        pretrained: other weights for the backbone than the config's; see `use_pretrained`.
        options: ``--cfg-options``; they win over everything else.

    Raises:
        UserError: one of them does not fit the config.
    """
    if epochs is not None:
        set_epochs(cfg, epochs)
    if batch_size is not None:
        cfg.train_dataloader.batch_size = batch_size
    for edit in edits:
        edit(cfg)
    if 'name' in (cfg.get('visualizer') or {}):
        del cfg.visualizer['name']  # a second run of the process would write to the first one's folder
    if tensorboard:
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    fit_to_cpu(cfg)
    if amp:
        use_amp(cfg)
    if auto_scale_lr:
        scale_lr(cfg, config)
    if pretrained is not None:
        use_pretrained(cfg, pretrained)
    merge_options(cfg, options, config)


def fit_to_cpu(cfg: Any) -> None:
    """Share the cores of a machine without a GPU between computing and loading.

    All cores compute. Loading at most needs half of them; each worker is one more process that
    imports everything, so few images get one worker.
    """
    if torch.cuda.is_available():
        return
    share = cores() // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(max(1, share))
    for name in ('train', 'val', 'test'):
        loader = cfg.get(f'{name}_dataloader')
        if loader is not None:
            loader.num_workers = min(loader.get('num_workers', 0), max(1, share // 2))


def use_amp(cfg: Any) -> None:
    """Train in mixed precision: fp16 with a dynamic loss scale on a GPU, bfloat16 on a CPU."""
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # of AmpOptimWrapper, which the config may have had
            cfg.optim_wrapper.pop(key, None)


def scale_lr(cfg: Any, config: str) -> None:
    """Scale the learning rate from the config's own batch to this run's."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UserError(f'--auto-scale-lr: {config} has no auto_scale_lr.base_batch_size to scale from')
    cfg.auto_scale_lr.enable = True


def use_pretrained(cfg: Any, source: str) -> None:
    """Start the backbone from other weights than the config's, or, with ``'none'``, from scratch.

    Statistics and stages that the config keeps fixed are those of its weights: from scratch they are trained.
    """
    backbone = backbone_of(cfg.model)
    if backbone is None:
        raise UserError(
            f'--pretrained {source}: there is no backbone, in model or model.detector, to start from it'
        )
    kind = backbone.type.rpartition('.')[2]
    if source != 'none' and kind not in BACKBONES:
        raise UserError(
            f'--pretrained {source}: the backbone is {kind}, and only those of ghost_det '
            f'({", ".join(NETWORKS)}) check what they load; name its weights in its init_cfg'
        )
    if source != 'none':
        backbone.init_cfg = dict(type='Pretrained', checkpoint=address(source))
        return
    backbone.init_cfg = None
    known = {**default_arguments(backbone.type), **backbone}  # mmdet's ResNet has norm_eval=True by default
    backbone.update(
        {key: free for key, free in (('norm_eval', False), ('frozen_stages', -1)) if key in known}
    )
    if backbone.get('norm_cfg'):
        backbone.norm_cfg.requires_grad = True

"""Where a training starts from: published weights of the backbone, a whole detector's, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.models import BACKBONES, NETWORKS
from ghost_det.swap.swap import defaults
from ghost_det.weights.catalog import address
from ghost_det.weights.download import locate
from ghost_det.weights.load import read_tensors


def use_pretrained(cfg: Any, source: str) -> None:
    """Start the backbone from other weights than the config says, or, with ``'none'``, from scratch.

    Statistics and stages that the config keeps fixed are those of its weights: from scratch they are trained.

    Args:
        cfg: the config of a detector.
        source: ``'none'``, a published name as ``ghostnet_100``, a path, or a URL.

    Raises:
        UserError: the config has no backbone, or not one of ours.
    """
    backbone = _backbone(cfg.model)
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
    known = {**defaults(backbone.type), **backbone}  # mmdet's ResNet has norm_eval=True where nothing is said
    backbone.update(
        {key: free for key, free in (('norm_eval', False), ('frozen_stages', -1)) if key in known}
    )
    if backbone.get('norm_cfg'):
        backbone.norm_cfg.requires_grad = True


def _backbone(model: Any) -> Any:
    """Return the config of the backbone in ``model`` or ``model.detector``; ``None`` if there is none."""
    detector = model if 'backbone' in model else model.get('detector') or {}
    return detector.get('backbone')


def fetch_weights(cfg: Any) -> None:
    """Have the backbone's weights here before the long set-up of everything else."""
    backbone = _backbone(cfg.model) or {}
    init = backbone.get('init_cfg')
    if backbone.get('type') in NETWORKS and isinstance(init, dict) and init.get('type') == 'Pretrained':
        read_tensors(locate(init['checkpoint']))


def skip_pretrained(model: Any) -> None:
    """Leave out weights of the backbone that those of a whole detector will replace."""
    for module in model.modules():
        cfg = getattr(module, 'init_cfg', None)
        if isinstance(cfg, dict) and str(cfg.get('type')).endswith('Pretrained'):
            module.init_cfg = None


def starts_whole(cfg: Any, config: str) -> bool:
    """Tell whether ``load_from`` names a local file that has the backbone, too.

    Raises:
        UserError: nothing in that file fits a detector.
    """
    if not cfg.get('load_from') or not Path(cfg.load_from).is_file():
        return False
    keys = read_tensors(cfg.load_from).keys()
    if not any(key.removeprefix('module.').split('.')[0] in cfg.model for key in keys):
        raise UserError(
            f'load_from={cfg.load_from}: no tensor of it has a place in {config}; the weights of a backbone '
            'alone are named by --pretrained'
        )
    return any(key.removeprefix('module.').removeprefix('detector.').startswith('backbone.') for key in keys)

"""The networks for configs of OpenMMLab's projects: with ``norm_cfg``, ``act_cfg`` and ``init_cfg``.

They are in mmengine's own registry, which every project searches after its own, so that ``type='GhostNet'``
is found from all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import nn

from ghost_det import models
from ghost_det.errors import UserError
from ghost_det.models.bottleneck import start_as_shortcuts
from ghost_det.weights.catalog import DETECTOR, SCHEME
from ghost_det.weights.load import load_pretrained

BN: dict[str, Any] = {'type': 'BN'}
RELU: dict[str, Any] = {'type': 'ReLU'}


class Initialized(BaseModule):
    """Initialises as ``init_cfg`` says: files come last, and every tensor of them must be loaded."""

    init_cfg: Any

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; by default each bottleneck starts as its shortcut."""
        given = self.init_cfg
        cfgs = given if isinstance(given, list | tuple) else [given] if given else []
        for cfg in cfgs:
            if not isinstance(cfg, Mapping) or 'type' not in cfg:
                raise ValueError(
                    f"init_cfg is {given!r}; expected dict(type='Pretrained', checkpoint=...) or None"
                )
        files = [cfg for cfg in cfgs if _is_file(cfg)]
        self.init_cfg = [cfg for cfg in cfgs if not _is_file(cfg)]
        super().init_weights()
        self.init_cfg = given
        if not cfgs:
            start_as_shortcuts(self)
        for cfg in files:
            loaded = load_pretrained(self, cfg['checkpoint'], cfg.get('prefix'), cfg.get('partial', False))
            print_log(str(loaded), logger='current')


def _is_file(init_cfg: Mapping[str, Any]) -> bool:
    """Return whether an ``init_cfg`` is mmengine's ``Pretrained``, by its name or as the class."""
    return init_cfg['type'] is PretrainedInit or str(init_cfg['type']).rpartition('.')[2] == 'Pretrained'


class _Configured(Initialized):
    """Layers and initialisation of mmdet's configs, for a network of torch; `BaseModule` must come last."""

    def __init__(
        self,
        *args: Any,
        norm_cfg: dict[str, Any] = BN,
        act_cfg: dict[str, Any] | None = RELU,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            norm_layer=lambda channels: build_norm_layer(norm_cfg, channels)[1],
            act_layer=nn.Sequential if act_cfg is None else lambda: build_activation_layer(dict(act_cfg)),
            **kwargs,
        )
        self.init_cfg = copy.deepcopy(init_cfg)


@MODELS.register_module()
class GhostNet(_Configured, models.GhostNet, BaseModule):
    """As `ghost_det.models.GhostNet`, with mmdet's layers and initialisation.

    Args:
        norm_cfg: normalisation layers, as in mmdet.
        act_cfg: activations, as in mmdet.
        init_cfg: mmengine's; with type ``Pretrained``, every tensor must be loaded. ``None`` keeps torch's
            initialisation, as the reference code does, but starts each bottleneck as its shortcut. (mmdet's
            usual Kaiming fan-out is wrong here: it takes a depthwise convolution for a dense one.)
        **kwargs: see `ghost_det.models.GhostNet`.

    Raises:
        ValueError: an argument is out of range; the message names it.

    Example:
        >>> backbone = GhostNet(out_indices=(1, 2, 3), norm_cfg=dict(type='GN', num_groups=2)).eval()
        >>> backbone.out_channels, backbone.out_strides
        ((40, 112, 160), (8, 16, 32))
    """


@MODELS.register_module()
class GhostNetV2(GhostNet, models.GhostNetV2):
    """As `ghost_det.models.GhostNetV2`, with the arguments of `GhostNet`."""


@MODELS.register_module()
class GhostNetV3(GhostNetV2, models.GhostNetV3):
    """As `ghost_det.models.GhostNetV3`, with the arguments of `GhostNet`."""


@MODELS.register_module()
class RepGhostNet(GhostNet, models.RepGhostNet):
    """As `ghost_det.models.RepGhostNet`, with the arguments of `GhostNet`."""


@MODELS.register_module()
class GhostPAN(_Configured, models.GhostPAN, BaseModule):
    """As `ghost_det.models.GhostPAN`, with ``norm_cfg``, ``act_cfg`` and ``init_cfg`` of `GhostNet`."""


class Deferred(dict[str, Any]):
    """Weights that mmengine must not load as far as they happen to fit; see `DetectorWeightsHook`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def _refuse(self, *_: Any) -> Any:
        raise UserError(
            f'{self.source}: published weights are for the backbones of ghost_det, which check every tensor: '
            "name them in the backbone's init_cfg; for another network, use the path of a file. load_from "
            f"takes {SCHEME}{DETECTOR}, with default_hooks=dict(weights=dict(type='DetectorWeightsHook'))"
        )

    items = keys = values = copy = __iter__ = __getitem__ = _refuse


def load_from_ghost_det(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Leave all to the hook; mmengine logs what follows ``load_from_`` in this name."""
    return {'state_dict': Deferred(filename)}


CheckpointLoader.register_scheme(prefixes=SCHEME, loader=load_from_ghost_det, force=True)

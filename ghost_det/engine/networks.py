"""The networks as MMDetection builds them: ``norm_cfg``, ``act_cfg`` and ``init_cfg``."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from mmcv.cnn import DepthwiseSeparableConvModule, Scale, build_activation_layer, build_norm_layer
from mmdet.models import GFLHead
from mmdet.models.backbones import ResNet
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ghost_det import models
from ghost_det.errors import UserError
from ghost_det.models import GhostConv2d, ghostify
from ghost_det.models.bottleneck import start_as_shortcuts
from ghost_det.weights.catalog import SCHEME
from ghost_det.weights.load import load_pretrained

BN: dict[str, Any] = {'type': 'BN'}
RELU: dict[str, Any] = {'type': 'ReLU'}


class _Initialized(BaseModule):
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


class _Configured(_Initialized):
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


@MODELS.register_module()
class GhostResNet(_Initialized, ResNet):
    """mmdet's ``ResNet`` with ghost convolutions (GhostNet, arXiv 1911.11907, section 4.1).

    Args:
        depth: 18, 34, 50, 101 or 152.
        ratio: reduction ``s`` of every ghost convolution; in the paper 2 and 4.
        dw_size: kernel ``d`` of every cheap operation.
        norm_eval: freeze batch-norm statistics in training; off, as no ImageNet weights are published.
        init_cfg: mmengine's; with type ``Pretrained``, every tensor must be loaded. ``None`` is ``ResNet``'s
            default, except for cheap operations, which keep torch's.
        **kwargs: see ``ResNet``.

    Attributes:
        out_channels: channels of each returned map, finest first.
        out_strides: pixels of the input per cell of each returned map.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> backbone = GhostResNet(50, out_indices=(1, 2, 3))
        >>> backbone.out_channels, backbone.out_strides
        ((512, 1024, 2048), (8, 16, 32))
    """

    def __init__(
        self,
        depth: int,
        ratio: int = 2,
        dw_size: int = 3,
        norm_eval: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(depth, norm_eval=norm_eval, init_cfg=init_cfg, **kwargs)
        self._has_default_init = init_cfg is None and kwargs.get('pretrained') is None
        ghostify(self, ratio, dw_size)
        returned = [i for i in range(self.num_stages) if i in self.out_indices]
        self.out_channels = tuple(self.base_channels * 2**i * self.block.expansion for i in returned)
        self.out_strides = tuple(4 * math.prod(self.strides[: i + 1]) for i in returned)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; by default as ``ResNet``, but keep torch's cheap operations."""
        super().init_weights()
        if self._has_default_init:
            for module in self.modules():
                if isinstance(module, GhostConv2d):
                    module.cheap_operation.reset_parameters()

    def train(self, mode: bool = True) -> GhostResNet:
        """Set training mode; ``ResNet`` returns nothing, so nor would its ``eval()``."""
        super().train(mode)
        return self


@MODELS.register_module()
class GFLSepBNHead(GFLHead):
    """mmdet's ``GFLHead`` with depthwise separable convolutions, and 1x1 ones for its predictions.

    The levels share the convolutions but not the batch norms, as in mmdet's ``RetinaSepBNHead``. Source: GFL
    (arXiv 2006.04388), with the light head of NanoDet (https://github.com/RangiLyu/nanodet, Apache-2.0).
    Arguments and shapes are those of ``GFLHead``, and the odd ``kernel_size`` of depthwise convolutions.
    """

    def __init__(self, kernel_size: int = 5, norm_cfg: Any = BN, **kwargs: Any) -> None:
        self.kernel_size = kernel_size
        super().__init__(norm_cfg=norm_cfg, **kwargs)

    def _init_layers(self) -> None:
        self.cls_convs = self._towers()
        self.reg_convs = self._towers()
        self.gfl_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, 4 * (self.reg_max + 1), 1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.cls_convs)

    def _towers(self) -> nn.ModuleList:
        widths = [self.in_channels, *[self.feat_channels] * self.stacked_convs]
        towers: list[nn.Sequential] = []
        for _ in self.prior_generator.strides:
            layers = [
                DepthwiseSeparableConvModule(
                    inp, oup, self.kernel_size, padding=self.kernel_size // 2, norm_cfg=self.norm_cfg
                )
                for inp, oup in zip(widths, widths[1:])
            ]
            for layer, first in zip(layers, towers[0] if towers else layers):
                layer.depthwise_conv.conv = first.depthwise_conv.conv
                layer.pointwise_conv.conv = first.pointwise_conv.conv
            towers.append(nn.Sequential(*layers))
        return nn.ModuleList(towers)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the logits of the classes and of the distances, a map of each for each level."""
        outs: tuple[list[Tensor], list[Tensor]] = multi_apply(
            self.forward_single, x, self.scales, self.cls_convs, self.reg_convs
        )
        return outs

    def forward_single(
        self, x: Tensor, scale: nn.Module, cls_convs: nn.Module, reg_convs: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of one level."""
        return self.gfl_cls(cls_convs(x)), scale(self.gfl_reg(reg_convs(x))).float()


def _refuse(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Refuse what mmengine's own loader would load as far as it happens to fit."""
    raise UserError(
        f'{filename}: published weights are for the backbones of ghost_det, which check every tensor: name '
        "them in the backbone's init_cfg; for another network, use the path of a file"
    )


CheckpointLoader.register_scheme(prefixes=SCHEME, loader=_refuse, force=True)

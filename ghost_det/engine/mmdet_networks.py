"""The networks that are built on MMDetection's own classes."""

from __future__ import annotations

import math
from typing import Any

from mmcv.cnn import DepthwiseSeparableConvModule, Scale
from mmdet.models import GFLHead
from mmdet.models.backbones import ResNet
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from torch import Tensor, nn

from ghost_det.models import GhostConv2d, ghostify

from .networks import BN, GhostNet, GhostNetV2, GhostNetV3, GhostPAN, Initialized, RepGhostNet

for _network in (GhostNet, GhostNetV2, GhostNetV3, GhostPAN, RepGhostNet):
    MODELS.register_module(module=_network)  # for configs that say ``mmdet.GhostNet``


@MODELS.register_module()
class GhostResNet(Initialized, ResNet):
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

"""A light head of mmdet's GFL: depthwise separable, with batch norm."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import DepthwiseSeparableConvModule, Scale
from mmdet.models import GFLHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class GFLSepBNHead(GFLHead):
    """`GFLHead` of depthwise separable convolutions, whose predictions are 1x1 convolutions.

    The levels share the convolutions, and each has batch norms of its own, as their activations differ
    (mmdet's ``RetinaSepBNHead`` and ``RTMDetSepBNHead``; the latter cannot share separable ones).

    Source: the method is GFL (arXiv 2006.04388), the light head that of NanoDet
    (https://github.com/RangiLyu/nanodet).

    Args:
        kernel_size: kernel of the depthwise convolutions, odd.
        share_conv: ...
        tied: ...
        kwargs: `GFLHead`'s.

    Shape:
        A ``(N, in_channels, H[i], W[i])`` for each level to, for each, class logits ``(N, num_classes,
        H[i], W[i])`` and logits of distances ``(N, 4 * (reg_max + 1), H[i], W[i])``.
    """

    def __init__(
        self, *args: Any, kernel_size: int = 3, share_conv: bool = True, tied: bool = False, **kwargs: Any
    ) -> None:
        self.kernel_size = kernel_size
        self.share_conv = share_conv
        self.tied = tied
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        levels = range(len(self.prior_generator.strides))
        self.cls_convs = nn.ModuleList(self._tower() for _ in levels)
        self.reg_convs = self.cls_convs if self.tied else nn.ModuleList(self._tower() for _ in levels)
        if self.share_conv:
            for towers in (self.cls_convs, self.reg_convs):
                for tower in towers[1:]:
                    for layer, first in zip(tower, towers[0]):
                        layer.depthwise_conv.conv = first.depthwise_conv.conv
                        layer.pointwise_conv.conv = first.pointwise_conv.conv
        self.gfl_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, 4 * (self.reg_max + 1), 1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in levels)

    def _tower(self) -> nn.Sequential:
        widths = [self.in_channels, *[self.feat_channels] * self.stacked_convs]
        return nn.Sequential(
            *(
                DepthwiseSeparableConvModule(
                    inp, oup, self.kernel_size, padding=self.kernel_size // 2, norm_cfg=self.norm_cfg
                )
                for inp, oup in zip(widths, widths[1:])
            )
        )

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the logits of classes and of distances, a map of each for each level."""
        outs: tuple[list[Tensor], list[Tensor]] = multi_apply(
            self._level, x, self.cls_convs, self.reg_convs, self.scales
        )
        return outs

    def _level(
        self, x: Tensor, cls_convs: nn.Module, reg_convs: nn.Module, scale: nn.Module
    ) -> tuple[Tensor, Tensor]:
        f = cls_convs(x)
        return self.gfl_cls(f), scale(self.gfl_reg(f if self.tied else reg_convs(x))).float()

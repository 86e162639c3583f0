"""A light head for GFL: depthwise separable, with batch norm."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import DepthwiseSeparableConvModule, Scale
from mmdet.models import GFLHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from torch import Tensor, nn

from .ghost_module import BN


@MODELS.register_module()
class GFLSepBNHead(GFLHead):
    """mmdet's ``GFLHead`` with depthwise separable convolutions, and 1x1 ones for its predictions.

    The levels share the convolutions, and each has batch norms of its own, as their activations differ:
    mmdet's ``RetinaSepBNHead`` is made so, and its ``RTMDetSepBNHead``, which cannot share separable ones.

    Source: the method is GFL (arXiv 2006.04388); the light head is that of NanoDet
    (https://github.com/RangiLyu/nanodet, Apache-2.0).

    Args:
        kernel_size: kernel of the depthwise convolutions, odd.
        kwargs: ``GFLHead``'s; batch norm for its ``norm_cfg``.

    Shape:
        A ``(N, in_channels, H[i], W[i])`` for each level, to a tuple of two lists: logits of the classes,
        ``(N, num_classes, H[i], W[i])``, and of the distances to the four sides, in units of
        the level's stride, ``(N, 4 * (reg_max + 1), H[i], W[i])``.

    Raises:
        ValueError: ``kernel_size`` is not an odd number.
    """

    def __init__(self, kernel_size: int = 5, norm_cfg: Any = BN, **kwargs: Any) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f'GFLSepBNHead: kernel_size is {kernel_size}; an odd number, as maps keep their size'
            )
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

"""GhostPAN: a path aggregation neck made of ghost bottlenecks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .bottleneck import GhostBottleneck
from .ghost_module import ActLayer, NormLayer, same_conv


class ConvNormAct(nn.Sequential):
    """A convolution, its norm and its activation, named and initialized as in mmcv's ``ConvModule``."""

    def __init__(
        self,
        inp: int,
        oup: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        norm_layer: NormLayer,
        act_layer: ActLayer,
    ) -> None:
        conv, norm = same_conv(inp, oup, kernel, stride, groups), norm_layer(oup)
        nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
        name = 'gn' if isinstance(norm, nn.GroupNorm) else 'bn'
        super().__init__(OrderedDict([('conv', conv), (name, norm), ('activate', act_layer())]))


class StridedConv(nn.Sequential):
    """A depthwise convolution of stride 2 and a pointwise one: half the size."""

    def __init__(self, channels: int, kernel: int, **layers: Any) -> None:
        depthwise = ConvNormAct(channels, channels, kernel, stride=2, groups=channels, **layers)
        pointwise = ConvNormAct(channels, channels, 1, **layers)
        super().__init__(OrderedDict([('depthwise_conv', depthwise), ('pointwise_conv', pointwise)]))


class GhostPAN(nn.Module):
    """Path aggregation by ghost bottlenecks and strided depthwise convolutions.

    Top down, each level adds the coarser one; bottom up, the finer one. Extra levels continue from the
    coarsest level before and after this exchange: each is the sum of both, strided.

    Source: the neck of NanoDet-Plus (https://github.com/RangiLyu/nanodet, Apache-2.0), which concatenates
    levels; here they are added, as in PANet (arXiv 1803.01534, section 3.1), which makes shortcuts free.

    Args:
        in_channels: channels of each map of the backbone, finest first.
        out_channels: channels of every map that the neck returns.
        num_outs: how many maps to return; more than the backbone has are extra levels.
        start_level: the finest map to use; those before it are ignored.
        kernel_size: kernel of all depthwise convolutions, strided and cheap ones; odd.
        norm_layer: makes the normalization for a number of channels.
        act_layer: makes an activation; the maps returned from the backbone's levels have none.

    Shape:
        A ``(N, in_channels[i], H[i], W[i])`` for each level, each half of the one before it, rounded up,
        to a tuple of ``num_outs`` maps of ``out_channels``, from level ``start_level`` on.

    Raises:
        ValueError: an argument is outside of its range, or the number of maps is not that of
            ``in_channels``; the message names it.

    Example:
        >>> import torch
        >>> neck = GhostPAN([24, 40, 112, 160], out_channels=64, num_outs=5, start_level=1).eval()
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip(neck.in_channels, (80, 40, 20, 10))]
        >>> [tuple(feature.shape[1:]) for feature in neck(maps)]
        [(64, 40, 40), (64, 20, 20), (64, 10, 10), (64, 5, 5), (64, 3, 3)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        kernel_size: int = 5,
        norm_layer: NormLayer = nn.BatchNorm2d,
        act_layer: ActLayer = nn.ReLU,
    ) -> None:
        super().__init__()
        if start_level not in range(len(in_channels)):
            raise ValueError(f'GhostPAN: start_level is {start_level}; expected 0 to {len(in_channels) - 1}')
        used = list(in_channels[start_level:])
        if num_outs < len(used):
            raise ValueError(f'GhostPAN: num_outs is {num_outs}; expected {len(used)} or more')
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'GhostPAN: kernel_size is {kernel_size}; expected an odd number')
        self.in_channels = list(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.start_level = start_level
        c = out_channels
        layers: dict[str, Any] = dict(norm_layer=norm_layer, act_layer=act_layer)

        def blocks() -> nn.Module:
            return nn.Sequential(GhostBottleneck(c, c, c, dw_size=kernel_size, **layers))

        steps, extras = range(len(used) - 1), range(num_outs - len(used))
        self.reduce_layers = nn.ModuleList(ConvNormAct(inp, c, 1, **layers) for inp in used)
        self.top_down_blocks = nn.ModuleList(blocks() for _ in steps)
        self.downsamples = nn.ModuleList(StridedConv(c, kernel_size, **layers) for _ in steps)
        self.bottom_up_blocks = nn.ModuleList(blocks() for _ in steps)
        self.extra_lvl_in_conv = nn.ModuleList(StridedConv(c, kernel_size, **layers) for _ in extras)
        self.extra_lvl_out_conv = nn.ModuleList(StridedConv(c, kernel_size, **layers) for _ in extras)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the aggregated maps and the extra ones, finest first."""
        if len(inputs) != len(self.in_channels):
            raise ValueError(f'GhostPAN: got {len(inputs)} maps; in_channels is {self.in_channels}')
        laterals = [reduce(x) for reduce, x in zip(self.reduce_layers, inputs[self.start_level :])]

        inner = [laterals[-1]]
        for block, lateral in zip(self.top_down_blocks, reversed(laterals[:-1])):
            upsampled = F.interpolate(inner[0], size=lateral.shape[2:], mode='nearest')
            inner.insert(0, block(lateral + upsampled))

        outs = [inner[0]]
        for downsample, block, feature in zip(self.downsamples, self.bottom_up_blocks, inner[1:]):
            outs.append(block(feature + downsample(outs[-1])))

        before = laterals[-1]
        for in_conv, out_conv in zip(self.extra_lvl_in_conv, self.extra_lvl_out_conv):
            before = in_conv(before)
            outs.append(before + out_conv(outs[-1]))
        return tuple(outs)

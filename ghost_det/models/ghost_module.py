"""The ghost modules of the three GhostNets and of RepGhost, and what their bottlenecks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormLayer = Callable[[int], nn.Module]
"""Makes a normalisation layer for a number of channels, such as ``nn.BatchNorm2d``."""
ActLayer = Callable[[], nn.Module]
"""Makes an activation, such as ``nn.ReLU``."""


def make_divisible(value: float, divisor: int = 4) -> int:
    """Round a channel count to a multiple of ``divisor``, losing at most a tenth (MobileNetV2's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def same_conv(inp: int, oup: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a bias-free convolution to the input's size divided by ``stride``, rounded up.

    With an even kernel, torch pads one side more, which works at stride 1 only.
    """
    padding: int | str = kernel // 2 if kernel % 2 else 'same'
    return nn.Conv2d(inp, oup, kernel, stride, padding, groups=groups, bias=False)


def is_plain_conv(module: nn.Module) -> bool:
    """Return whether a module convolves as ``nn.Conv2d``, or mmcv's equal subclass, by its own weight.

    With weight_norm, spectral_norm or pruning, the weight is computed from parameters of other names.
    """
    kind = type(module)
    is_mmcv = kind.__module__ == 'mmcv.cnn.bricks.wrappers' and kind.__name__ == 'Conv2d'
    return (kind is nn.Conv2d or is_mmcv) and {
        name for name, _ in module.named_parameters(recurse=False)
    } <= {'weight', 'bias'}


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether a module is a batch norm; mmcv's synchronised one by its statistics."""
    return isinstance(module, BATCH_NORMS) or isinstance(getattr(module, 'running_mean', None), Tensor)


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the children of a module by name; one with two names is there twice."""
    named = module.named_modules(remove_duplicate=False)
    return [(name, child) for name, child in named if name and '.' not in name]


def check_ghosts(name: str, ratio: int, dw_size: int) -> None:
    """Raise a ``ValueError`` for settings with which there are no ghosts."""
    if not isinstance(ratio, int) or ratio < 2:
        raise ValueError(f'{name}: ratio is {ratio!r}; expected 2 or more (1 is an ordinary convolution)')
    if not isinstance(dw_size, int) or dw_size < 1:
        raise ValueError(f'{name}: dw_size is {dw_size!r}; expected 1 or more')


class DFCGate(nn.Sequential):
    """Decoupled fully connected attention at half the size (GhostNetV2, section 3.2 and figure 4b)."""

    def __init__(self, inp: int, oup: int, kernel_size: int, stride: int, norm_layer: NormLayer) -> None:
        super().__init__(
            same_conv(inp, oup, kernel_size, stride),
            norm_layer(oup),
            nn.Conv2d(oup, oup, (1, 5), padding=(0, 2), groups=oup, bias=False),
            norm_layer(oup),
            nn.Conv2d(oup, oup, (5, 1), padding=(2, 0), groups=oup, bias=False),
            norm_layer(oup),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return one gate in [0, 1] for each channel of each 2x2 cell."""
        window = min(2, x.shape[2]), min(2, x.shape[3])
        x = F.avg_pool2d(x, window)
        for layer in self:
            x = layer(x)
        return x.sigmoid()


class GhostModule(nn.Module):
    """Ordinary convolution for a few intrinsic maps, cheap depthwise ones for their ghosts.

    A *primary convolution* makes ``m = ceil(oup / ratio)`` intrinsic features; a depthwise *cheap
    operation* makes ``m * (ratio - 1)`` ghost features from them; both are concatenated and cut to
    ``oup``. Without norms it has ``inp * m * k**2 + m * (ratio - 1) * d**2`` parameters.

    Source: GhostNet (arXiv 1911.11907), section 3.1, figure 1b; the gate is GhostNetV2's.

    Args:
        inp: channels in.
        oup: channels out.
        kernel_size: ``k``, kernel of the primary convolution.
        ratio: ``s``, the reduction; 2 makes half of the features cheaply.
        dw_size: ``d``, kernel of the cheap operation.
        stride: stride of the primary convolution.
        relu: whether each half ends in ``act_layer``.
        norm_layer: makes the normalisation behind both convolutions of its channels.
        act_layer: makes the activation that ``relu`` switches.
        gated: multiply the output by a `DFCGate` of the input.

    Shape:
        ``(N, inp, H, W)`` to ``(N, oup, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: ``ratio`` is below 2, or ``dw_size`` below 1.

    Example:
        >>> GhostModule(16, 24)(torch.rand(1, 16, 8, 8)).shape
        torch.Size([1, 24, 8, 8])
    """

    def __init__(
        self,
        inp: int,
        oup: int,
        kernel_size: int = 1,
        ratio: int = 2,
        dw_size: int = 3,
        stride: int = 1,
        relu: bool = True,
        norm_layer: NormLayer = nn.BatchNorm2d,
        act_layer: ActLayer = nn.ReLU,
        gated: bool = False,
    ) -> None:
        super().__init__()
        check_ghosts('GhostModule', ratio, dw_size)
        self.oup = oup
        intrinsic = math.ceil(oup / ratio)
        act = act_layer() if relu else nn.Sequential()
        primary = dict(inp=inp, oup=intrinsic, kernel=kernel_size, stride=stride)
        cheap = dict(inp=intrinsic, oup=intrinsic * (ratio - 1), kernel=dw_size, groups=intrinsic)
        self._build(primary, cheap, norm_layer, act)
        self.short_conv = DFCGate(inp, oup, kernel_size, stride, norm_layer) if gated else None

    def _build(
        self, primary: dict[str, int], cheap: dict[str, int], norm_layer: NormLayer, act: nn.Module
    ) -> None:
        """Make the layers of both halves; ``primary`` and ``cheap`` are arguments of `same_conv`."""
        self.primary_conv: nn.Module = nn.Sequential(same_conv(**primary), norm_layer(primary['oup']), act)
        self.cheap_operation: nn.Module = nn.Sequential(same_conv(**cheap), norm_layer(cheap['oup']), act)

    def intrinsic(self, x: Tensor) -> Tensor:
        """Return the features of the primary convolution."""
        return self.primary_conv(x)

    def ghosts(self, intrinsic: Tensor) -> Tensor:
        """Return what the cheap operation makes of intrinsic features."""
        return self.cheap_operation(intrinsic)

    def forward(self, x: Tensor) -> Tensor:
        """Return intrinsic and ghost features, concatenated and, if there is a gate, weighted."""
        intrinsic = self.intrinsic(x)
        features = torch.cat([intrinsic, self.ghosts(intrinsic)], dim=1)[:, : self.oup]
        if self.short_conv is not None:
            features = features * F.interpolate(self.short_conv(x), size=features.shape[2:], mode='nearest')
        return features


class SqueezeExcite(nn.Module):
    """Channel attention (arXiv 1709.01507) with MobileNetV3's hard-sigmoid gate."""

    def __init__(self, channels: int, ratio: float, act_layer: ActLayer = nn.ReLU) -> None:
        super().__init__()
        reduced = make_divisible(channels * ratio)
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = act_layer()
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, each channel scaled by a gate in [0, 1]."""
        squeezed = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.conv_expand(self.act1(self.conv_reduce(squeezed))))

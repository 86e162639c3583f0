"""Ghost bottlenecks written so that inference engines need not copy their halves together.

An engine runs ``concat([x, cheap(x)])`` as a copy of both halves. At high resolutions, where ghost networks
spend much of their time, that moves as many bytes as the convolutions around it. A convolution of a
concatenation is the sum of two convolutions, though, and engines add into a convolution's output for free.
Measured gains are in docs/deploy-speed.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .bottleneck import GhostBottleneck
from .fold import fold_norms
from .ghost_module import GhostModule

Module = TypeVar('Module', bound=nn.Module)

_LANES = 16  # float32 channels of an AVX-512 register


def rewrite(model: Module) -> Module:
    """Rewrite a network for export, in place: norms folded, ghost bottlenecks without inner concatenations.

    Results differ by rounding alone. Bottlenecks of RepGhost, which concatenate nothing, and those with other
    norms than batch norms stay as they are. The model cannot be trained on or loaded into afterwards.

    Args:
        model: backbone or detector in evaluation mode; it may be optimized or deployed already.

    Returns:
        ``model``.
    """
    fold_norms(model)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, GhostBottleneck) and _is_plain(child):
                parent._modules[name] = SplitBottleneck(child)
    return model.eval()


class SplitConv(nn.Module):
    """A convolution of the concatenation of its inputs, which are never concatenated."""

    def __init__(self, conv: nn.Conv2d, parts: Sequence[int]) -> None:
        super().__init__()
        weights = torch.split(conv.weight, list(parts), dim=1)
        self.convs = nn.ModuleList(
            _conv_like(conv, weight, conv.bias if i == 0 else None) for i, weight in enumerate(weights)
        )

    def forward(self, halves: Sequence[Tensor]) -> Tensor:
        """Return the sum over the halves, which engines fuse into the convolutions."""
        out: Tensor = self.convs[0](halves[0])
        for conv, half in zip(self.convs[1:], halves[1:]):
            out = conv(half) + out
        return out


class SplitBottleneck(nn.Module):
    """A folded `GhostBottleneck` whose halves stay apart from the first ghost module to the second.

    Shape:
        ``(N, inp, H, W)`` to ``(N, oup, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(self, block: GhostBottleneck) -> None:
        super().__init__()
        first: Any = block.ghost1
        second: Any = block.ghost2
        intrinsic = _conv_of(first.primary_conv).out_channels
        self.parts: list[int] = [intrinsic, first.oup - intrinsic]
        self.ghost1: Any = first
        self.shrink = nn.ModuleList()
        if block.stride > 1:
            self.shrink = _split_depthwise(block.conv_dw, self.parts)
        self.se = block.se
        self.oup: int = second.oup
        primary, cheap = _conv_of(second.primary_conv), _conv_of(second.cheap_operation)
        self.is_doubled: bool = self.oup == 2 * primary.out_channels <= _LANES
        if self.is_doubled:
            primary, cheap = _doubled(primary, cheap)
        self.primary = SplitConv(primary, self.parts)
        self.cheap = cheap
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features."""
        halves = self._halves(x)
        if self.shrink:
            halves = [conv(half) for conv, half in zip(self.shrink, halves)]
        if self.se is not None:
            halves = self._excite(halves)
        intrinsic = self.primary(halves)
        out: Tensor = self.cheap(intrinsic)
        if not self.is_doubled:
            out = torch.cat([intrinsic, out[:, : self.oup - intrinsic.shape[1]]], dim=1)
        out = out + self.shortcut(x)
        return out

    def _halves(self, x: Tensor) -> list[Tensor]:
        """Return intrinsic and ghost features of the first ghost module."""
        intrinsic = self.ghost1.intrinsic(x)
        ghosts = self.ghost1.ghosts(intrinsic)
        if ghosts.shape[1] > self.parts[1]:
            ghosts = ghosts[:, : self.parts[1]]
        if self.ghost1.short_conv is None:
            return [intrinsic, ghosts]
        gates = torch.split(self.ghost1.short_conv(x), self.parts, dim=1)
        size = intrinsic.shape[2:]
        return [
            half * F.interpolate(gate, size=size, mode='nearest')
            for half, gate in zip([intrinsic, ghosts], gates)
        ]

    def _excite(self, halves: list[Tensor]) -> list[Tensor]:
        """Return the halves scaled by squeeze-excite, whose own vectors are short enough to concatenate."""
        se: Any = self.se
        squeezed = torch.cat([half.mean((2, 3), keepdim=True) for half in halves], dim=1)
        gates = torch.split(
            F.hardsigmoid(se.conv_expand(se.act1(se.conv_reduce(squeezed)))), self.parts, dim=1
        )
        return [half * gate for half, gate in zip(halves, gates)]


def _is_plain(block: GhostBottleneck) -> bool:
    has_halves = isinstance(block.ghost1, GhostModule) and isinstance(block.ghost2, GhostModule)
    return has_halves and not any(isinstance(layer, nn.GroupNorm | _NormBase) for layer in block.modules())


def _conv_of(layers: Any) -> nn.Conv2d:
    """Return the convolution of a folded half of a ghost module."""
    conv = layers[0]
    assert isinstance(conv, nn.Conv2d)
    return conv


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, groups: int = 1) -> nn.Conv2d:
    """Return a convolution of the geometry of ``conv`` with other weights."""
    copy: Any = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        groups=groups,
        bias=bias is not None,
    )
    copy.to(weight)
    copy.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        copy.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    made: nn.Conv2d = copy
    return made


def _split_depthwise(conv: Any, parts: Sequence[int]) -> nn.ModuleList:
    weights, biases = (torch.split(values, list(parts)) for values in (conv.weight, conv.bias))
    return nn.ModuleList(
        _conv_like(conv, weight, bias, groups=len(weight)) for weight, bias in zip(weights, biases)
    )


def _doubled(primary: nn.Conv2d, cheap: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Make a linear ghost module a convolution and a depthwise one over all channels: no concatenation.

    Each intrinsic map is made twice, and a kernel that is 1 in its centre passes the first on. Where both
    halves fit into one register, the second costs nothing.
    """
    assert primary.bias is not None and cheap.bias is not None
    same = torch.zeros_like(cheap.weight)
    same[:, :, (cheap.kernel_size[0] - 1) // 2, (cheap.kernel_size[1] - 1) // 2] = 1
    return (
        _conv_like(primary, primary.weight.repeat(2, 1, 1, 1), primary.bias.repeat(2)),
        _conv_like(
            cheap,
            torch.cat([same, cheap.weight]),
            torch.cat([torch.zeros_like(cheap.bias), cheap.bias]),
            groups=2 * len(same),
        ),
    )

"""Networks for inference: norms and branches folded, ghost bottlenecks without concatenations.

``concat([x, cheap(x)])`` copies both halves, which at high resolutions moves as many bytes as the
convolutions around it. But a convolution of a concatenation is a sum of two convolutions, and engines add
into a convolution's output for free. Measured gains are in docs/results.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ghost_det.errors import UserError

from .bottleneck import GhostBottleneck
from .ghost_module import BATCH_NORMS, GhostModule, children_of, is_plain_conv

Module = TypeVar('Module', bound=nn.Module)


def optimize(model: Module, compile: bool = False) -> Module:
    """Make a backbone or a detector of mmdet faster at inference, in place; results differ by rounding only.

    Training branches and batch norms are folded into convolutions, ghost bottlenecks do without inner
    concatenations, and weights are laid out channels-last. If levels share a convolution but not its norm
    (``RetinaSepBNHead``), each gets a copy. A norm that is not registered right behind its convolution stays.
    The model can no longer be trained or loaded into.

    Args:
        model: in evaluation mode.
        compile: compile backbone and neck with ``torch.compile``; the first call of each input size then
            takes about a minute, and gradients must be off.

    Returns:
        ``model``.

    Raises:
        UserError: ``model`` is in training mode; nothing was changed.

    Example:
        >>> from ghost_det import GhostNet
        >>> model = optimize(GhostNet().eval())
        >>> any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        False
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if model.training or any(norm.training for norm in norms):
        raise UserError('optimize: the model is in training mode; call model.eval() first')
    rewrite(model)
    _activate_in_place(model)
    model.eval()  # also the modules that folding built
    model.to(memory_format=torch.channels_last)
    if compile:
        parts = [getattr(model, name, None) for name in ('backbone', 'neck')]
        for part in [part for part in parts if isinstance(part, nn.Module)] or [model]:
            part.compile(options={'freezing': True})
    return model


def rewrite(model: Module) -> Module:
    """Rewrite a network in evaluation mode, in place: norms folded, no concatenations in ghost bottlenecks.

    Bottlenecks of RepGhost, which concatenate nothing, and those with other norms than batch norms stay.
    """
    fold_norms(model)
    for parent in list(model.modules()):
        for name, child in children_of(parent):
            if isinstance(child, GhostBottleneck) and _is_plain(child):
                setattr(parent, name, SplitBottleneck(child))
    return model.eval()


def fold_norms(model: nn.Module) -> None:
    """Fold training branches and batch norms into convolutions, in place; for models in evaluation mode."""
    parts: list[Any] = list(model.modules())
    for module in parts:
        if hasattr(module, 'switch_to_deploy'):
            with suppress(ValueError):  # branches with other norms stay
                module.switch_to_deploy()
    for parent, conv_name, norm_name in list(_pairs(model)):
        conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, BATCH_NORMS)
        # A copy: other levels may share the convolution, but not the norm.
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(parent, norm_name, nn.Identity())


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Find batch norms registered right behind a convolution of as many channels."""
    for parent in model.modules():
        order = getattr(parent, 'order', None)  # in which mmcv's ConvModule runs its layers
        if isinstance(order, tuple) and order[:2] != ('conv', 'norm'):
            continue
        children: list[tuple[str, Any]] = [*children_of(parent)]
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:]):
            if (
                is_plain_conv(conv)
                and isinstance(norm, BATCH_NORMS)
                and norm.running_var is not None
                and conv.out_channels == norm.num_features
            ):
                yield parent, conv_name, norm_name


def _activate_in_place(model: nn.Module) -> None:
    """Let activations overwrite a convolution's output in a ``Sequential``, where nothing else sees it."""
    for parent in model.modules():
        layers = list(parent.children()) if isinstance(parent, nn.Sequential) else []
        layers = [layer for layer in layers if not isinstance(layer, nn.Identity)]
        for conv, act in zip(layers, layers[1:]):
            if isinstance(conv, nn.Conv2d) and isinstance(act, nn.ReLU | nn.ReLU6 | nn.SiLU | nn.Hardswish):
                act.inplace = True


class SplitConv(nn.Module):
    """A convolution of the concatenation of its inputs, which are never concatenated."""

    def __init__(self, conv: nn.Conv2d, parts: Sequence[int]) -> None:
        super().__init__()
        weights = torch.split(conv.weight, list(parts), dim=1)
        self.convs = nn.ModuleList(
            _part_of(conv, weight, conv.bias if i == 0 else None) for i, weight in enumerate(weights)
        )

    def forward(self, halves: Sequence[Tensor]) -> Tensor:
        """Return the sum over the halves, which engines add inside the convolutions."""
        out: Tensor = self.convs[0](halves[0])
        for conv, half in zip(self.convs[1:], halves[1:]):
            out = conv(half) + out
        return out


class SplitBottleneck(nn.Module):
    """A folded `GhostBottleneck` whose halves stay apart from the first ghost module to the second."""

    def __init__(self, block: GhostBottleneck) -> None:
        super().__init__()
        first: Any = block.ghost1
        second: Any = block.ghost2
        intrinsic = first.primary_conv[0].out_channels
        self.parts: list[int] = [intrinsic, first.oup - intrinsic]
        self.ghost1: Any = first
        self.shrink = nn.ModuleList()
        if block.stride > 1:
            conv: Any = block.conv_dw
            halves = (torch.split(conv.weight, self.parts), torch.split(conv.bias, self.parts))
            self.shrink = nn.ModuleList(_part_of(conv, w, b, groups=len(w)) for w, b in zip(*halves))
        self.se = block.se
        self.oup: int = second.oup
        self.primary = SplitConv(second.primary_conv[0], self.parts)
        self.cheap: nn.Module = second.cheap_operation[0]
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features."""
        halves = self._halves(x)
        if self.shrink:
            halves = [conv(half) for conv, half in zip(self.shrink, halves)]
        if self.se is not None:
            halves = self._excite(halves)
        intrinsic = self.primary(halves)
        ghosts = self.cheap(intrinsic)[:, : self.oup - intrinsic.shape[1]]
        return torch.cat([intrinsic, ghosts], dim=1) + self.shortcut(x)

    def _halves(self, x: Tensor) -> list[Tensor]:
        """Return the intrinsic and the ghost features of the first ghost module."""
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
        """Return the halves scaled by squeeze-excite, whose vectors are short enough to concatenate."""
        se: Any = self.se
        squeezed = torch.cat([half.mean((2, 3), keepdim=True) for half in halves], dim=1)
        gates = torch.split(
            F.hardsigmoid(se.conv_expand(se.act1(se.conv_reduce(squeezed)))), self.parts, dim=1
        )
        return [half * gate for half, gate in zip(halves, gates)]


def _is_plain(block: GhostBottleneck) -> bool:
    """Return whether a block concatenates halves and its convolutions have the bias of folded norms."""
    has_halves = isinstance(block.ghost1, GhostModule) and isinstance(block.ghost2, GhostModule)
    convs = (layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
    return has_halves and all(conv.bias is not None for conv in convs)


def _part_of(conv: Any, weight: Tensor, bias: Tensor | None, groups: int = 1) -> nn.Conv2d:
    """Return a convolution of the same geometry with a part of the weights."""
    part: nn.Conv2d = copy.deepcopy(conv)
    part.in_channels, part.out_channels, part.groups = weight.shape[1] * groups, len(weight), groups
    part.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    part.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return part

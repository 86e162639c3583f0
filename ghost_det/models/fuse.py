"""Networks made ready for inference: folded norms and branches, ghost bottlenecks without concatenations.

An engine runs ``concat([x, cheap(x)])`` as a copy of both halves. At high resolutions, where ghost networks
spend much of their time, that moves as many bytes as the convolutions around it. A convolution of a
concatenation is the sum of two convolutions, though, and engines add into a convolution's output for free.
Measured gains are in docs/results.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ghost_det.errors import UserError

from .bottleneck import GhostBottleneck
from .ghost_module import BATCH_NORMS, GhostModule, children_of, is_plain_conv
from .selection import select_fast

Module = TypeVar('Module', bound=nn.Module)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def optimize(model: Module, compile: bool = False, threads: int | None = None) -> Module:
    """Make a backbone or a detector of mmdet faster at inference, in place; results differ by rounding only.

    Training branches are folded (``switch_to_deploy``), batch norms go into the convolutions before them,
    ghost bottlenecks do without inner concatenations (`rewrite`), weights are laid out channels-last, which
    convolutions then hand on, and heads of mmdet select their scores before they sort them. Where levels
    share a convolution but have norms of their own (``RetinaSepBNHead``), each level gets a copy of it. A
    norm whose convolution is not registered right before it stays as it is. The model cannot be trained on
    or loaded into afterwards.

    Args:
        model: in evaluation mode.
        compile: let ``torch.compile`` make one graph of backbone and neck each; the first call of
            each input size then takes about a minute, and gradients must be off.
        threads: of torch, for the whole process; ``None`` leaves them.

    Returns:
        ``model``.

    Raises:
        UserError: ``model`` is in training mode, or ``threads`` below 1. Nothing was changed then.

    Example:
        >>> from ghost_det import GhostNet
        >>> model = optimize(GhostNet().eval())
        >>> any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        False
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    if model.training or any(norm.training for norm in norms):
        raise UserError('optimize: the model is in training mode; call model.eval() first')
    if threads is not None:
        if threads < 1:
            raise UserError(f'optimize: threads is {threads}; expected 1 or more')
        torch.set_num_threads(threads)
    rewrite(model)  # compiled graphs gain most by it: 0.48 of timm's time instead of 0.74
    _activate_in_place(model)
    select_fast(model)
    model.eval()  # what folding made, too
    model.to(memory_format=torch.channels_last)
    if compile:
        parts = [getattr(model, name, None) for name in ('backbone', 'neck')]
        for part in [part for part in parts if isinstance(part, nn.Module)] or [model]:
            part.compile(options={'freezing': True})
    return model


def rewrite(model: Module) -> Module:
    """Rewrite a network for export, in place: norms folded, ghost bottlenecks without inner concatenations.

    Results differ by rounding only. Bottlenecks of RepGhost, which concatenate nothing, and those with other
    norms than batch norms stay as they are. The model is in evaluation mode, and may be optimized or folded
    already; it cannot be trained on or loaded into afterwards.
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
        if hasattr(module, 'switch_to_deploy') and not any(map(_is_other_norm, module.modules())):
            module.switch_to_deploy()
    for parent, conv_name, norm_name in list(_pairs(model)):
        conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, BATCH_NORMS)
        # A copy: other levels may share the convolution, but not the norm.
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(parent, norm_name, nn.Identity())


def _is_other_norm(module: nn.Module) -> bool:
    """Tell a norm that cannot go into a convolution, whose branches then stay, too."""
    folds = isinstance(module, BATCH_NORMS) and module.running_var is not None
    return isinstance(module, NORMS) and not folds


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
    """Have activations overwrite a convolution's output where none else sees it: in a ``Sequential``."""
    for parent in model.modules():
        layers = list(parent.children()) if isinstance(parent, nn.Sequential) else []
        shown = [layer for layer in layers if not isinstance(layer, nn.Identity)]
        for conv, act in zip(shown, shown[1:]):
            if isinstance(conv, nn.Conv2d) and isinstance(act, nn.ReLU | nn.ReLU6 | nn.SiLU | nn.Hardswish):
                act.inplace = True


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
            self.shrink = _split_depthwise(block.conv_dw, self.parts)
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
        out: Tensor = torch.cat([intrinsic, ghosts], dim=1) + self.shortcut(x)
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
    return has_halves and not any(isinstance(layer, NORMS) for layer in block.modules())


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

"""Re-parameterized parts: parallel branches in training, afterwards one convolution with the same output."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .ghost_module import BATCH_NORMS, ActLayer, GhostModule, NormLayer, check_ghosts, same_conv

BRANCHES = 3  # GhostNetV3, section 3.1: parallel convolutions of one shape


class ConvBn(nn.Module):
    """A convolution and its norm, one branch of a sum."""

    def __init__(
        self, inp: int, oup: int, kernel: int, stride: int = 1, groups: int = 1, *, norm_layer: NormLayer
    ) -> None:
        super().__init__()
        self.conv = same_conv(inp, oup, kernel, stride, groups)
        self.bn1 = norm_layer(oup)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised output of the convolution."""
        return self.bn1(self.conv(x))


def _folded(kernel: Tensor, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Return kernel and bias, in float64, of a bias-free convolution and the norm behind it."""
    if not isinstance(bn, BATCH_NORMS) or bn.running_var is None:
        raise ValueError(
            f'switch_to_deploy: {type(bn).__name__} cannot be folded into a convolution; '
            'BN and SyncBN with running statistics can'
        )
    tensors = bn.running_mean, bn.running_var, bn.weight, bn.bias  # the last two may be None
    doubles: list[Any] = [None if each is None else each.double() for each in tensors]
    mean, variance, scale, offset = doubles
    return fuse_conv_bn_weights(kernel.double(), None, mean, variance, bn.eps, scale, offset)


@torch.no_grad()
def fold(branches: Iterable[tuple[Any, Any]], skip: nn.Module | None = None) -> nn.Conv2d:
    """Return the one convolution that equals the sum of convolutions with their norms.

    The first branch has the largest kernel, in whose centre smaller ones are put. ``skip`` is the norm of a
    branch without a convolution, next to depthwise ones of stride 1.
    """
    branches = list(branches)
    first = branches[0][0]
    kernel, bias = torch.zeros_like(first.weight, dtype=torch.float64), torch.zeros(())
    terms = [_folded(conv.weight, bn) for conv, bn in branches]
    if skip is not None:
        terms.append(_folded(torch.ones_like(first.weight[:, :, :1, :1]), skip))
    for weight, offset in terms:
        gap = first.kernel_size[0] - weight.shape[-1]  # odd for an even kernel: torch pads its far side more
        kernel, bias = kernel + F.pad(weight, [gap // 2, gap - gap // 2] * 2), bias + offset
    one: nn.Conv2d = copy.deepcopy(first)
    one.weight.copy_(kernel)
    one.bias = nn.Parameter(bias.to(one.weight))
    return one.requires_grad_(first.weight.requires_grad)


class GhostModuleV3(GhostModule):
    """Ghost module whose two convolutions are sums of branches, which `switch_to_deploy` folds.

    The cheap operation also has a pointwise branch (the *scale*) and one of only a norm (the *skip*), which
    repeats each intrinsic map for its ghosts. Source: GhostNetV3 (arXiv 2404.11202), section 3.1.
    """

    def _build(
        self, primary: dict[str, int], cheap: dict[str, int], norm_layer: NormLayer, act: nn.Module
    ) -> None:
        def three(layer: dict[str, int]) -> nn.ModuleList:
            return nn.ModuleList(ConvBn(**layer, norm_layer=norm_layer) for _ in range(BRANCHES))

        self.primary_conv = nn.Identity()
        self.cheap_operation = nn.Identity()
        self.primary_rpr_conv = three(primary)
        self.primary_activation = act
        self.cheap_rpr_skip = norm_layer(cheap['oup'])
        self.cheap_rpr_conv = three(cheap)
        self.cheap_rpr_scale = ConvBn(**{**cheap, 'kernel': 1}, norm_layer=norm_layer)
        self.cheap_activation = act
        self.copies = cheap['oup'] // cheap['inp']
        self.deployed = False

    def intrinsic(self, x: Tensor) -> Tensor:
        """Return the features of the primary convolution."""
        if self.deployed:
            return super().intrinsic(x)
        return self.primary_activation(sum(branch(x) for branch in self.primary_rpr_conv))

    def ghosts(self, intrinsic: Tensor) -> Tensor:
        """Return what the cheap operation makes of intrinsic features."""
        if self.deployed:
            return super().ghosts(intrinsic)
        repeated = intrinsic if self.copies == 1 else intrinsic.repeat_interleave(self.copies, dim=1)
        out = self.cheap_rpr_scale(intrinsic) + self.cheap_rpr_skip(repeated)
        for branch in self.cheap_rpr_conv:
            out = out + branch(intrinsic)
        return self.cheap_activation(out)

    def switch_to_deploy(self) -> None:
        """Fold the branches into one convolution each, for inference; a second call changes nothing."""
        if self.deployed:
            return
        primary = fold([(branch.conv, branch.bn1) for branch in self.primary_rpr_conv])
        branches = [*self.cheap_rpr_conv, self.cheap_rpr_scale]
        cheap = fold([(branch.conv, branch.bn1) for branch in branches], self.cheap_rpr_skip)
        self.primary_conv = nn.Sequential(primary, self.primary_activation)
        self.cheap_operation = nn.Sequential(cheap, self.cheap_activation)
        for name in ('primary_rpr_conv', 'cheap_rpr_conv', 'cheap_rpr_scale', 'cheap_rpr_skip'):
            delattr(self, name)
        self.deployed = True


class RepGhostModule(nn.Module):
    """Ghost module that adds its ghosts to a normalized copy of the intrinsic features.

    Source: RepGhost (arXiv 2211.06088), section 3.2, figure 3d and e.
    """

    def __init__(
        self,
        inp: int,
        oup: int,
        ratio: int = 2,
        dw_size: int = 3,
        relu: bool = True,
        norm_layer: NormLayer = nn.BatchNorm2d,
        act_layer: ActLayer = nn.ReLU,
    ) -> None:
        super().__init__()
        if ratio != 2:
            raise ValueError(
                f'RepGhostModule: ratio is {ratio}; only 2: its ghosts are added, not concatenated'
            )
        check_ghosts('RepGhostModule', ratio, dw_size)
        act = act_layer() if relu else nn.Sequential()
        self.primary_conv = nn.Sequential(same_conv(inp, oup, 1), norm_layer(oup), act)
        self.fusion_bn = nn.Sequential(norm_layer(oup))
        self.cheap_operation: nn.Module = nn.Sequential(
            same_conv(oup, oup, dw_size, groups=oup), norm_layer(oup)
        )
        self.relu = act

    def forward(self, x: Tensor) -> Tensor:
        """Return intrinsic features plus their ghosts."""
        intrinsic = self.primary_conv(x)
        out = self.cheap_operation(intrinsic)
        for bn in self.fusion_bn:
            out = out + bn(intrinsic)
        return self.relu(out)

    def switch_to_deploy(self) -> None:
        """Fold the added copy into the cheap operation; a second call changes nothing."""
        if isinstance(self.cheap_operation, nn.Sequential):
            conv, bn = self.cheap_operation[0], self.cheap_operation[1]
            self.cheap_operation = fold([(conv, bn)], self.fusion_bn[0])
            self.fusion_bn = nn.Sequential()

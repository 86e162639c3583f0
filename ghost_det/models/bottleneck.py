"""The bottlenecks of the Ghost networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .ghost_module import ActLayer, GhostModule, NormLayer, SqueezeExcite, is_batch_norm, same_conv
from .reparam import BRANCHES, ConvBn, fold


class GhostBottleneck(nn.Module):
    """Two ghost modules, a strided depthwise convolution and squeeze-excite between them, a shortcut.

    Source: GhostNet (arXiv 1911.11907), section 3.2, figure 3. ``se`` is the squeeze ratio, 0 for none;
    ``gate`` holds further arguments of the first ghost module; ``with_cp`` recomputes activations in the
    backward pass.
    """

    def __init__(
        self,
        inp: int,
        hidden: int,
        oup: int,
        kernel: int = 3,
        stride: int = 1,
        se: float = 0,
        ghost: Callable[..., nn.Module] = GhostModule,
        gate: dict[str, Any] | None = None,
        ratio: int = 2,
        dw_size: int = 3,
        norm_layer: NormLayer = nn.BatchNorm2d,
        act_layer: ActLayer = nn.ReLU,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = dict(norm_layer=norm_layer, act_layer=act_layer)
        settings: dict[str, Any] = dict(layers, ratio=ratio, dw_size=dw_size)
        self.with_cp = with_cp
        self.stride = stride
        self.ghost1 = ghost(inp, hidden, relu=True, **settings, **(gate or {}))
        if stride > 1:
            self._build_depthwise(hidden, kernel, stride, norm_layer)
        self.se = SqueezeExcite(hidden, se, act_layer) if se else None
        self.ghost2 = ghost(hidden, oup, relu=False, **settings)
        self.shortcut = nn.Sequential()
        if inp != oup or stride > 1:
            self.shortcut = nn.Sequential(
                same_conv(inp, inp, kernel, stride, groups=inp),
                norm_layer(inp),
                same_conv(inp, oup, 1),
                norm_layer(oup),
            )

    def _build_depthwise(self, channels: int, kernel: int, stride: int, norm_layer: NormLayer) -> None:
        """Build the layers that shrink the map."""
        self.conv_dw: nn.Module = same_conv(channels, channels, kernel, stride, groups=channels)
        self.bn_dw = norm_layer(channels)

    def depthwise(self, x: Tensor) -> Tensor:
        """Return ``x`` shrunk by the stride."""
        return self.bn_dw(self.conv_dw(x))

    def _transform(self, x: Tensor) -> Tensor:
        out: Tensor = self.ghost1(x)
        if self.stride > 1:
            out = self.depthwise(out)
        if self.se is not None:
            out = self.se(out)
        return self.ghost2(out) + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features, which the backward pass recomputes if ``with_cp``."""
        if self.with_cp and self.training and x.requires_grad:
            return checkpoint(self._transform, x, use_reentrant=False)
        return self._transform(x)


class GhostBottleneckV3(GhostBottleneck):
    """Bottleneck whose strided depthwise convolution is a sum of branches (GhostNetV3, section 3.1)."""

    def _build_depthwise(self, channels: int, kernel: int, stride: int, norm_layer: NormLayer) -> None:
        layer: dict[str, int] = dict(inp=channels, oup=channels, stride=stride, groups=channels)
        self.dw_rpr_conv = nn.ModuleList(
            ConvBn(**layer, kernel=kernel, norm_layer=norm_layer) for _ in range(BRANCHES)
        )
        self.dw_rpr_scale = ConvBn(**layer, kernel=1, norm_layer=norm_layer)
        self.conv_dw = nn.Identity()
        self.deployed = False

    def depthwise(self, x: Tensor) -> Tensor:
        """Return ``x`` shrunk by the stride."""
        if self.deployed:
            return self.conv_dw(x)
        out: Tensor = self.dw_rpr_scale(x)
        for branch in self.dw_rpr_conv:
            out = out + branch(x)
        return out

    def switch_to_deploy(self) -> None:
        """Fold the branches of the strided convolution; the ghost modules fold theirs."""
        if self.stride > 1 and not self.deployed:
            branches = [*self.dw_rpr_conv, self.dw_rpr_scale]
            self.conv_dw = fold((branch.conv, branch.bn1) for branch in branches)
            del self.dw_rpr_conv, self.dw_rpr_scale
            self.deployed = True


class ConvBnAct(ConvBn):
    """The 1x1 convolution that ends the trunk of a classifier."""

    def __init__(self, inp: int, oup: int, norm_layer: NormLayer, act_layer: ActLayer) -> None:
        super().__init__(inp, oup, 1, norm_layer=norm_layer)
        self.act1 = act_layer()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated output of convolution and norm."""
        return self.act1(super().forward(x))


def start_as_shortcuts(network: nn.Module) -> None:
    """Zero the norms of each second ghost module: blocks start as shortcuts (arXiv 1706.02677, 5.1)."""
    for block in network.modules():
        if isinstance(block, GhostBottleneck):
            for module in block.ghost2.modules():
                is_norm = is_batch_norm(module) or isinstance(module, nn.GroupNorm)
                if is_norm and isinstance(module.weight, Tensor):
                    nn.init.zeros_(module.weight)

"""The Ghost networks: the block tables of the papers, and the engine that builds a backbone from one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .bottleneck import ConvBnAct, GhostBottleneck, GhostBottleneckV3
from .ghost_module import ActLayer, GhostModule, NormLayer, is_batch_norm, make_divisible, same_conv
from .reparam import GhostModuleV3, RepGhostModule


class Row(NamedTuple):
    """One bottleneck of the table, at width 1.0; ``se`` is the squeeze ratio, 0 for none."""

    kernel: int
    expansion: int
    out: int
    se: float
    stride: int


# GhostNet, table 1. Grouped as in the reference code, so that state-dict keys are the published ones.
GHOSTNET_TABLE: tuple[tuple[Row, ...], ...] = (
    (Row(3, 16, 16, 0, 1),),
    (Row(3, 48, 24, 0, 2),),
    (Row(3, 72, 24, 0, 1),),
    (Row(5, 72, 40, 0.25, 2),),
    (Row(5, 120, 40, 0.25, 1),),
    (Row(3, 240, 80, 0, 2),),
    (
        Row(3, 200, 80, 0, 1),
        Row(3, 184, 80, 0, 1),
        Row(3, 184, 80, 0, 1),
        Row(3, 480, 112, 0.25, 1),
        Row(3, 672, 112, 0.25, 1),
    ),
    (Row(5, 672, 160, 0.25, 2),),
    (
        Row(5, 960, 160, 0, 1),
        Row(5, 960, 160, 0.25, 1),
        Row(5, 960, 160, 0, 1),
        Row(5, 960, 160, 0.25, 1),
    ),
)


# RepGhost, table 2: half of GhostNet's expansions (120 where that would be 92), all else the same.
REPGHOST_TABLE: tuple[tuple[Row, ...], ...] = tuple(
    tuple(row._replace(expansion=120 if row.expansion == 184 else row.expansion // 2) for row in rows)
    for rows in GHOSTNET_TABLE
)
ENDS, STRIDES = (2, 4, 6, 8), (4, 8, 16, 32)  # the last group of each stage, and its pixels per cell


class GhostNet(nn.Module):
    """GhostNet as a backbone: feature maps at the ends of the stages with strides 4, 8, 16 and 32.

    With ``num_classes`` it is the paper's classifier instead. State-dict keys are those of the reference
    code, so published ImageNet weights fit. In configs of mmdet, the class of this name in
    `ghost_det.engine.networks` takes ``norm_cfg``, ``act_cfg`` and ``init_cfg``.

    Source: GhostNet (arXiv 1911.11907), table 1.

    Args:
        width: multiplier of all channel counts (rounded to multiples of 4); the paper's 0.5, 1.0, 1.3.
        out_indices: which of the four stage ends to return; deeper modules are not built.
        frozen_stages: -1 trains everything; 0 freezes the stem; ``n`` freezes stem and stages 1 to ``n``.
        ratio: reduction ``s`` of every ghost module.
        dw_size: kernel ``d`` of every cheap operation.
        norm_layer: makes the normalization for a number of channels.
        act_layer: makes an activation.
        norm_eval: keep batch-norm statistics fixed while training.
        with_cp: gradient checkpointing per bottleneck: less memory, more time.
        num_classes: build the classification head and return logits; needs the last stage.
        drop_rate: dropout before the classifier.
        head_channels: width of the layer before the classifier; 0 leaves that layer out.
        last_blocks: how many of the last stage's bottlenecks with stride 1 to build, 0 to 4. The last two of
            GhostNet 1.0 have a third of its backbone's parameters. Published weights still fit.

    Attributes:
        out_channels: channels of each returned map, in the order of ``out_indices``.
        out_strides: pixels of the input per cell of each returned map.

    Shape:
        ``(N, 3, H, W)``, any H and W (in training, more than one value per channel must reach the coarsest
        map's norms: two images, or more than 32 px), to a tuple of
        ``(N, out_channels[i], ceil(H / out_strides[i]), ceil(W / out_strides[i]))``;
        with ``num_classes`` to ``(N, num_classes)``.

    Raises:
        ValueError: an argument is outside of its range; the message names it.

    Example:
        >>> import torch
        >>> backbone = GhostNet().eval()
        >>> [tuple(feature.shape) for feature in backbone(torch.rand(1, 3, 320, 320))]
        [(1, 24, 80, 80), (1, 40, 40, 40), (1, 112, 20, 20), (1, 160, 10, 10)]
        >>> backbone.out_channels, backbone.out_strides
        ((24, 40, 112, 160), (4, 8, 16, 32))
    """

    table: ClassVar[tuple[tuple[Row, ...], ...]] = GHOSTNET_TABLE
    stem_channels: ClassVar[int] = 16
    trunk_channels: ClassVar[int] = 960
    bottleneck: ClassVar[type[GhostBottleneck]] = GhostBottleneck
    ghost: ClassVar[type[nn.Module]] = GhostModule
    gated_from: ClassVar[float] = math.inf
    """The first bottleneck, counted from 0, whose first ghost module has a gate."""

    def __init__(
        self,
        width: float = 1.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        ratio: int = 2,
        dw_size: int = 3,
        norm_layer: NormLayer = nn.BatchNorm2d,
        act_layer: ActLayer = nn.ReLU,
        norm_eval: bool = False,
        with_cp: bool = False,
        num_classes: int | None = None,
        drop_rate: float = 0.2,
        head_channels: int = 1280,
        last_blocks: int = 4,
    ) -> None:
        super().__init__()
        self._check(width, out_indices, frozen_stages, num_classes, last_blocks)
        self.width = width
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)

        channels = make_divisible(self.stem_channels * width)
        self.conv_stem = same_conv(3, channels, 3, stride=2)
        self.bn1 = norm_layer(channels)
        self.act1 = act_layer()
        self.blocks = nn.ModuleList()
        layers: dict[str, Any] = dict(norm_layer=norm_layer, act_layer=act_layer)
        settings: dict[str, Any] = dict(layers, ratio=ratio, dw_size=dw_size, with_cp=with_cp)
        ends: list[int] = []
        built = 0
        for position, rows in enumerate(self.table[: ENDS[self.out_indices[-1]] + 1]):
            group = nn.Sequential()
            for row in rows[:last_blocks] if position == ENDS[-1] else rows:
                hidden, out = make_divisible(row.expansion * width), make_divisible(row.out * width)
                gate = dict(gated=True) if built >= self.gated_from else {}
                block = self.bottleneck(
                    channels, hidden, out, row.kernel, row.stride, row.se, self.ghost, gate, **settings
                )
                group.append(block)
                channels, built = out, built + 1
            self.blocks.append(group)
            ends += [channels] if position in ENDS else []
        self.out_channels = tuple(ends[i] for i in self.out_indices)
        if num_classes is not None:
            self._build_classifier(channels, num_classes, head_channels, norm_layer, act_layer)
        self._freeze()

    @classmethod
    def _check(
        cls, width: float, out_indices: Sequence[int], frozen: int, num_classes: int | None, last_blocks: int
    ) -> None:
        def is_int(value: Any, least: int, most: float = math.inf) -> bool:
            return isinstance(value, int) and least <= value <= most

        indices = list(out_indices) if isinstance(out_indices, Sequence) else []
        is_number = isinstance(width, int | float) and not isinstance(width, bool)
        if not is_number or not 0 < width < math.inf:
            problem = f'width is {width!r}; expected a number above 0'
        elif not indices or indices != [i for i in range(4) if i in indices]:
            problem = f'out_indices is {out_indices!r}; expected some of 0 to 3, in rising order'
        elif not is_int(frozen, -1, 4):
            problem = f'frozen_stages is {frozen!r}; expected -1 (none) to 4 (all)'
        elif not is_int(last_blocks, 0, 4):
            problem = f'last_blocks is {last_blocks!r}; expected 0 to 4'
        elif num_classes is not None and (not is_int(num_classes, 1) or indices[-1] != 3):
            problem = f'num_classes is {num_classes!r}; expected 1 or more, with 3 in out_indices'
        else:
            return
        raise ValueError(f'{cls.__name__}: {problem}')

    def _build_classifier(
        self, channels: int, num_classes: int, head: int, norm_layer: NormLayer, act_layer: ActLayer
    ) -> None:
        trunk = make_divisible(self.trunk_channels * self.width)
        self.blocks.append(nn.Sequential(ConvBnAct(channels, trunk, norm_layer, act_layer)))
        if head:
            self.conv_head = nn.Conv2d(trunk, head, 1)
            self.act2 = act_layer()
        self.classifier = nn.Linear(head or trunk, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return the maps of ``out_indices``, or logits if there is a classification head."""
        x = self.act1(self.bn1(self.conv_stem(x)))
        features = []
        taps = [ENDS[i] for i in self.out_indices]
        for position, group in enumerate(self.blocks):
            x = group(x)
            if position in taps:
                features.append(x)
        if self.num_classes is None:
            return tuple(features)
        x = x.mean((2, 3), keepdim=True)
        if hasattr(self, 'conv_head'):
            x = self.act2(self.conv_head(x))
        x = x.flatten(1)
        return self.classifier(F.dropout(x, self.drop_rate, self.training))

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.conv_stem, self.bn1]
        if self.frozen_stages > 0:
            frozen += list(self.blocks[: ENDS[self.frozen_stages - 1] + 1])
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> GhostNet:
        """Set training mode, except for frozen stages and, with ``norm_eval``, batch norms."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if is_batch_norm(module):
                        module.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Fold the parallel branches of training, if any; other checkpoints and optimizers no longer fit.

        Raises:
            ValueError: the norms of the branches are not batch norms.
        """
        parts: list[Any] = list(self.modules())
        for module in parts:
            if module is not self and hasattr(module, 'switch_to_deploy'):
                module.switch_to_deploy()


class GhostNetV2(GhostNet):
    """GhostNet with attention: from the third bottleneck on, a DFC gate weights the first ghost module.

    Source: GhostNetV2 (arXiv 2211.12905), section 4.1. Arguments, shape and errors are `GhostNet`'s.
    """

    gated_from = 2


class GhostNetV3(GhostNetV2):
    """GhostNetV2 with parallel branches in training, which `switch_to_deploy` folds.

    Source: GhostNetV3 (arXiv 2404.11202), section 3.1. Arguments, shape and errors are `GhostNet`'s.
    """

    bottleneck = GhostBottleneckV3
    ghost = GhostModuleV3


class RepGhostNet(GhostNet):
    """GhostNet whose ghosts are added, not concatenated; ``switch_to_deploy`` leaves plain convolutions.

    Source: RepGhost (arXiv 2211.06088), table 2. Arguments, shape and errors are `GhostNet`'s, but
    ``ratio`` can only be 2.
    """

    table = REPGHOST_TABLE
    ghost = RepGhostModule

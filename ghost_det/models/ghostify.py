"""Ghost convolutions in place of the ordinary ones of any network, as the paper's Ghost-ResNets are made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from .ghost_module import GhostModule, check_ghosts, children_of, is_plain_conv
from .reparam import RepGhostModule

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
IMAGE_CHANNELS = 4


class GhostConv2d(nn.Module):
    """A ghost module without norms or activations, in place of a convolution of one group.

    Its first filters and the bias are the old convolution's, so an initialization keeps its scale. A norm
    inside would be wrong where several levels share a head. Source: GhostNet (arXiv 1911.11907), section 3.1,
    equations 2 and 3; padding and dilation go to the primary convolution only, as the authors say in issue
    34 of huawei-noah/Efficient-AI-Backbones.
    """

    def __init__(self, conv: nn.Conv2d, ratio: int = 2, dw_size: int = 3) -> None:
        super().__init__()
        m = math.ceil(conv.out_channels / ratio)
        geometry = {name: getattr(conv, name) for name in ('kernel_size', 'stride', 'padding', 'dilation')}
        same = dw_size // 2 if dw_size % 2 else 'same'
        like: dict[str, Any] = dict(
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        self.out_channels = conv.out_channels
        self.primary_conv = nn.Conv2d(conv.in_channels, m, **geometry, **like)
        self.cheap_operation = nn.Conv2d(m, m * (ratio - 1), dw_size, padding=same, groups=m, **like)
        for name, old in conv.named_parameters():
            primary, cheap = (half.get_parameter(name) for half in (self.primary_conv, self.cheap_operation))
            with torch.no_grad():
                primary.copy_(old[:m])
                if name == 'bias':
                    cheap[: conv.out_channels - m].copy_(old[m:])
            primary.requires_grad_(old.requires_grad)
            cheap.requires_grad_(old.requires_grad)
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return intrinsic and ghost features, concatenated."""
        intrinsic = self.primary_conv(x)
        features = torch.cat([intrinsic, self.cheap_operation(intrinsic)], dim=1)
        return features[:, : self.out_channels]


def ghostify(module: nn.Module, ratio: int = 2, dw_size: int = 3, skip: Sequence[str] = ()) -> nn.Module:
    """Replace the ordinary convolutions of a network by ghost convolutions, in place.

    Call it after ``init_weights()``, as mmdet's initializers take a depthwise convolution for a dense one,
    and before the optimizer is built, as the parameters are new. Hooks on a replaced convolution are lost.

    It replaces every ``nn.Conv2d`` of one group that has fewer weights afterwards, except

    - first convolutions, which have at most 4 input channels, as do the paper's authors;
    - those in ``skip``, such as the predictors of a head, whose bias is a prior of each output;
    - other kinds of convolution (deformable, weight-standardized, parametrized) with all inside them;
    - convolutions whose parameters are also used by another module;
    - those inside ghost modules, so a second call changes nothing.

    A convolution that is registered more than once stays shared.

    Source: GhostNet (arXiv 1911.11907), section 4.1.

    Args:
        module: any network, or one convolution.
        ratio: ``s``, the reduction; 2 makes half of the features cheaply.
        dw_size: ``d``, kernel of the cheap operations.
        skip: dotted names, from ``module`` on, of modules to leave with all inside them; may have shell
            wildcards (``'*.downsample'``).

    Returns:
        ``module``, or its replacement.

    Raises:
        ValueError: an argument is outside of its range, or ``skip`` names no module; nothing was changed.

    Example:
        >>> from torchvision.models import resnet50
        >>> round(sum(p.numel() for p in ghostify(resnet50()).parameters()) / 1e6, 2)  # of 25.56
        13.95
    """
    check_ghosts('ghostify', ratio, dw_size)
    named = list(module.named_modules(remove_duplicate=False))
    kept = [part for _, part in named if _is_closed(part)]
    for pattern in skip:
        matches = [part for name, part in named if fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(f'ghostify: skip has {pattern!r}; {type(module).__name__} has no such module')
        kept += matches
    left = {inner for part in kept for inner in part.modules()}
    users = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    ghosts: dict[nn.Module | None, nn.Module] = {
        part: GhostConv2d(part, ratio, dw_size)
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
        and part not in left
        and all(users[id(p)] == 1 for p in part.parameters())
        and _gains(part, ratio, dw_size)
    }
    for parent in list(module.modules()):
        for name, child in children_of(parent):
            if child in ghosts:
                setattr(parent, name, ghosts[child])
    return ghosts.get(module, module)


def _is_closed(part: nn.Module) -> bool:
    """Return whether a module is a ghost module, or convolves in another way than ``nn.Conv2d``."""
    if isinstance(part, CONVOLUTIONS):
        return not is_plain_conv(part)
    # mmcv's deformable convolutions derive from nn.Module, but have kernels.
    weight = dict(part.named_parameters(recurse=False)).get('weight')
    is_kernel = weight is not None and weight.dim() == 4
    return is_kernel or isinstance(part, GhostConv2d | GhostModule | RepGhostModule)


def _gains(conv: nn.Conv2d, ratio: int, dw_size: int) -> bool:
    intrinsic = math.ceil(conv.out_channels / ratio)
    weights = conv.weight[:intrinsic].numel() + intrinsic * (ratio - 1) * dw_size**2
    is_first = conv.in_channels <= IMAGE_CHANNELS
    fits = conv.groups == 1 and conv.out_channels >= ratio
    return fits and not is_first and weights < conv.weight.numel()

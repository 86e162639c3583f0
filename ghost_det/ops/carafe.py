"""Content-aware upsampling."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .sampling import add_gradients, gather, wide


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Fill ``output`` ``(b, c, h * scale, w * scale)`` (Wang et al., CARAFE, 2019, section 3.1).

    Each place sums the ``k * k`` cells around its source in ``features`` ``(b, c, h, w)``, weighted by its
    kernel in ``masks`` ``(b, group_size * k * k, h * scale, w * scale)``, one for each group of channels.
    """
    output.copy_(_carafe(kernel_size, group_size, scale_factor, wide(features), wide(masks)))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradient of `carafe_naive_forward` to ``bottom_grad``, of the features, and ``mask_grad``."""
    forward = partial(_carafe, kernel_size, group_size, scale_factor)
    add_gradients(forward, (features, masks), top_grad, (bottom_grad, mask_grad))


def carafe_forward(
    features: Tensor, masks: Tensor, rfeatures: Tensor, _1: Tensor, _2: Tensor, output: Tensor, **sizes: int
) -> None:
    """Do what `carafe_naive_forward` does; ``rfeatures`` keeps the features for `carafe_backward`."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **sizes)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    **sizes: int,
) -> None:
    """Do what `carafe_naive_backward` does."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, **sizes)


def _carafe(kernel_size: int, groups: int, scale: int, features: Tensor, masks: Tensor) -> Tensor:
    batch, _, height, width = features.shape
    taps = kernel_size**2
    reach = kernel_size // 2
    tap = torch.arange(taps, device=features.device)
    rows = torch.arange(height * scale, device=features.device)[:, None, None] // scale
    columns = torch.arange(width * scale, device=features.device)[:, None] // scale
    y, x = rows + tap // kernel_size - reach, columns + tap % kernel_size - reach
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    cells = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    weights = masks.view(batch, groups, taps, height * scale, width * scale).permute(0, 3, 4, 1, 2)
    weights = weights * inside[:, :, None]
    return gather(features, cells[:, :, None].expand(weights.shape), weights).permute(0, 3, 1, 2)

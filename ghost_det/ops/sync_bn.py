"""Batch normalization over several processes, ``MMSyncBN`` in a config; maps are ``(b, c, n)``."""

from __future__ import annotations

import torch
from torch import Tensor


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Fill ``mean`` ``(c,)``."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Fill ``var`` ``(c,)`` with the mean square distance from ``mean``, which is that of all processes."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Fill ``norm`` and ``output`` ``(b, c, n)`` and ``std`` ``(c,)``; move the running statistics ``(c,)``.

    The running variance is an unbiased estimate from the samples of all ``group_size`` processes.
    """
    torch.sqrt(var + eps, out=std)
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None or bias is None else norm * weight[:, None] + bias[:, None])
    if running_mean is not None and running_var is not None:
        count = input.numel() // input.shape[1] * group_size
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / max(count - 1, 1)), momentum)


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Fill ``grad_weight`` and ``grad_bias`` ``(c,)``."""
    grad = grad_output.float()
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Fill ``grad_input`` ``(b, c, n)``; the gradients ``(c,)`` are means over the processes."""
    count = grad_output.numel() // grad_output.shape[1]
    common = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - common))

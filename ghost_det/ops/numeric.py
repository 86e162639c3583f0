"""Precision and gradients of the operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.functional import vjp


def wide(tensor: Tensor) -> Tensor:
    """As float32, unless it is that or float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def add_gradients(
    forward: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor, buffers: Sequence[Tensor]
) -> None:
    """Add the gradient of ``forward`` by each of ``inputs``, made `wide`, to its buffer."""
    gradients = vjp(forward, tuple(map(wide, inputs)), wide(grad_output))[1]  # type: ignore[no-untyped-call]
    for buffer, gradient in zip(buffers, gradients):
        buffer += gradient

"""The focal loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .sampling import wide


def _sigmoid_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of the right answer ``(n, c)``, its sign against ``input``, and the weight of its loss."""
    classes = input.size(1)
    if target.numel() and int(target.max()) > classes:
        raise ValueError(
            f'sigmoid_focal_loss: target holds label {int(target.max())}, but there are {classes} classes '
            '(and background): compare num_classes with the data'
        )
    logits = wide(input)
    is_class = target[:, None] == torch.arange(classes, device=target.device)
    sign = is_class.to(logits.dtype) * 2 - 1
    scale = torch.where(is_class, logits.new_tensor(alpha), logits.new_tensor(1 - alpha))
    return logits * sign, sign, scale * weight[target][:, None] if weight.numel() else scale


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` ``(n, c)`` for logits ``(n, c)`` (Lin et al., Focal Loss, 2017, equation 5).

    ``target`` ``(n,)`` holds labels 0 to c, background; ``weight`` is ``(c,)`` or empty. Computed from the
    logit, it stays exact where C++, from the float32 probability, jumps to log 0 (87).
    """
    right, _, scale = _sigmoid_terms(input, target, weight, alpha)
    output.copy_(-scale * (-right).sigmoid() ** gamma * F.logsigmoid(right))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` ``(n, c)`` with the derivative of `sigmoid_focal_loss_forward`."""
    right, sign, scale = _sigmoid_terms(input, target, weight, alpha)
    wrong = (-right).sigmoid()
    slope = wrong**gamma * (gamma * right.sigmoid() * F.logsigmoid(right) - wrong)
    grad_input.copy_(sign * scale * slope)

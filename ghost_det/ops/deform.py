"""Deformable and masked convolutions.

mmcv passes the geometry of a deformable convolution by name. Its buffers ``columns`` and ``ones`` stay empty.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .sampling import add_gradients, corners, gather, wide


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Fill ``output`` ``(b, o, h, w)`` (Dai et al., Deformable Convolutional Networks, 2017, section 2.1).

    ``input`` is ``(b, c, H, W)``, ``weight`` ``(o, c / group, kH, kW)``. ``offset``
    ``(b, deformable_group * kH * kW * 2, h, w)`` moves each tap of the kernel by y and x, in cells.
    """
    output.copy_(_deform_conv2d(_renamed(geometry), wide(input), wide(weight), wide(offset)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Add the gradient of `deform_conv_forward` to ``grad_input`` and ``grad_offset``."""

    def forward(input: Tensor, offset: Tensor) -> Tensor:
        return _deform_conv2d(_renamed(geometry), input, wide(weight), offset)

    add_gradients(forward, (input, offset), grad_output, (grad_input, grad_offset))


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Add the gradient of `deform_conv_forward`, times ``scale``, to ``grad_weight``."""
    forward = partial(_deform_conv2d, _renamed(geometry), wide(input), offset=wide(offset))
    # The output is linear in the weight, so its gradient does not depend on it.
    add_gradients(forward, (torch.zeros_like(grad_weight),), grad_output * scale, (grad_weight,))


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Fill ``output`` ``(b, o, h, w)`` (Zhu et al., Deformable ConvNets v2, 2019, section 3.2).

    ``mask`` ``(b, deformable_group * kernel_h * kernel_w, h, w)`` weights each tap. If offset and mask are
    larger, the first entries are used.
    """
    tensors = (input, weight, offset, mask, bias)[: 4 + with_bias]
    output.copy_(_deform_conv2d(geometry, *map(wide, tensors)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Add the gradient of `modulated_deform_conv_forward` to the five buffers named ``grad_``."""
    tensors = (input, weight, offset, mask, bias)[: 4 + with_bias]
    buffers = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    add_gradients(partial(_deform_conv2d, geometry), tensors, grad_output, buffers)


def _renamed(geometry: dict[str, int]) -> dict[str, int]:
    """Return the geometry of the first version under the names of the second."""
    names = {'k': 'kernel', 'd': 'stride', 'pad': 'pad', 'dilation': 'dilation'}
    pairs = {f'{new}_{axis.lower()}': geometry[old + axis] for old, new in names.items() for axis in 'HW'}
    return {**geometry, **pairs}


def _deform_conv2d(
    geometry: dict[str, int],
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    def across(count: int) -> Tensor:
        return torch.arange(count, device=input.device)

    kernel, stride, pad, dilation = (
        (geometry[f'{name}_h'], geometry[f'{name}_w']) for name in ('kernel', 'stride', 'pad', 'dilation')
    )
    groups, deform_groups = geometry['group'], geometry['deformable_group']
    batch, channels, height, width = input.shape
    out_h, out_w = (
        (input.shape[2 + i] + 2 * pad[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    taps = kernel[0] * kernel[1]
    expected = (batch, deform_groups * taps * 2, out_h, out_w)
    entries = out_h * out_w * deform_groups * taps
    if offset.shape != expected and (mask is None or mask.shape[1:].numel() < entries):
        raise ValueError(
            f'deformable convolution: offset is {tuple(offset.shape)}; this geometry takes {expected}.'
        )
    # DyHead lends a level's offset and mask to the next, whose map is smaller. The C++ operator, which its
    # published weights were trained with, takes the first entries.
    offset = offset.flatten(1)[:, : 2 * entries]
    # In the order of batch, rows, columns, taps, groups: a cell's channels then lie side by side.
    moves = offset.view(batch, deform_groups, taps, 2, out_h, out_w).permute(3, 0, 4, 5, 2, 1)
    tap = across(taps)[:, None]
    y = moves[0] + (across(out_h) * stride[0] - pad[0])[:, None, None, None] + tap // kernel[1] * dilation[0]
    x = moves[1] + (across(out_w) * stride[1] - pad[1])[:, None, None] + tap % kernel[1] * dilation[1]
    cells, weights = corners(y, x, height, width)
    if mask is not None:
        mask = mask.flatten(1)[:, :entries].view(batch, deform_groups, taps, out_h, out_w)
        mask = mask.permute(0, 3, 4, 2, 1)
        weights = weights * mask[..., None]
    columns = gather(input, cells, weights).view(-1, taps, groups, channels // groups)
    kernels = weight.view(groups, -1, channels // groups, taps)
    output = torch.einsum('ntgc,goct->ngo', columns, kernels).reshape(batch, out_h, out_w, -1)
    return (output if bias is None else output + bias).permute(0, 3, 1, 2)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill ``col`` ``(c * kernel_h * kernel_w, n)`` with what the kernel covers at ``n`` places.

    ``im`` is ``(1, c, h, w)``; the indices ``(n,)`` are rows and columns of the convolution's output.
    """
    padded = F.pad(im[0], (pad_w, kernel_w - 1, pad_h, kernel_h - 1))
    rows = mask_h_idx[:, None, None] + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx[:, None, None] + torch.arange(kernel_w, device=im.device)
    col.copy_(padded[:, rows, columns].permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write ``col`` ``(channels, n)`` to ``n`` places of ``im`` ``(1, channels, height, width)``."""
    im[0, :, mask_h_idx, mask_w_idx] = col

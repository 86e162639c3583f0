"""Multi-scale deformable attention."""

from __future__ import annotations

from functools import partial
from typing import cast

from torch import Tensor

from .sampling import add_gradients, wide


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sum values at points of several maps (Zhu et al., Deformable DETR, 2021, equation 3).

    ``value`` ``(b, keys, heads, c)`` holds the maps one after the other, row by row. Locations, x and y from
    0 to 1, are ``(b, queries, heads, levels, points, 2)``; the result is ``(b, queries, heads * c)``.
    """
    output = _attention(spatial_shapes, wide(value), wide(sampling_locations), wide(attention_weights))
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradient of `ms_deform_attn_forward` to the last three tensors."""
    inputs = (value, sampling_locations, attention_weights)
    buffers = (grad_value, grad_sampling_loc, grad_attn_weight)
    add_gradients(partial(_attention, spatial_shapes), inputs, grad_output, buffers)


def _attention(spatial_shapes: Tensor, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    # Only here: mmcv.ops imports the operators of this package.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    output = multi_scale_deformable_attn_pytorch(value, spatial_shapes, locations, weights)
    return cast(Tensor, output)

"""The table of stand-ins for mmcv's operators: all that the model families of mmdet call.

They keep the signatures of the C++ operators, so the buffers that mmcv allocates (``output``, ``argmax``,
``grad_input``, ``dets``) are filled in place. They run on the CPU and on GPUs; float16 and
bfloat16 tensors are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import attention, boxes, carafe, deform, losses, regions, sync_bn

STAND_INS: dict[str, Callable[..., Any]] = {
    'get_compiler_version': lambda: 'n/a',
    'get_compiling_cuda_version': lambda: 'n/a',
    **{
        function.__name__: function
        for function in (
            attention.ms_deform_attn_backward,
            attention.ms_deform_attn_forward,
            boxes.bbox_overlaps,
            boxes.line_nms_forward,
            boxes.nms,
            boxes.nms_match,
            boxes.softnms,
            carafe.carafe_backward,
            carafe.carafe_forward,
            carafe.carafe_naive_backward,
            carafe.carafe_naive_forward,
            deform.deform_conv_backward_input,
            deform.deform_conv_backward_parameters,
            deform.deform_conv_forward,
            deform.masked_col2im_forward,
            deform.masked_im2col_forward,
            deform.modulated_deform_conv_backward,
            deform.modulated_deform_conv_forward,
            losses.sigmoid_focal_loss_backward,
            losses.sigmoid_focal_loss_forward,
            losses.softmax_focal_loss_backward,
            losses.softmax_focal_loss_forward,
            regions.deform_roi_pool_backward,
            regions.deform_roi_pool_forward,
            regions.roi_align_backward,
            regions.roi_align_forward,
            regions.roi_pool_backward,
            regions.roi_pool_forward,
            sync_bn.sync_bn_backward_data,
            sync_bn.sync_bn_backward_param,
            sync_bn.sync_bn_forward_mean,
            sync_bn.sync_bn_forward_output,
            sync_bn.sync_bn_forward_var,
        )
    },
}

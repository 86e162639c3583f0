"""The table of stand-ins for mmcv's operators: all that the model families of mmdet call.

They keep the signatures of the C++ operators, so the buffers that mmcv allocates (``output``, ``argmax``,
``grad_input``, ``dets``) are filled in place. They run on the CPU and on GPUs; float16 and
bfloat16 tensors are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import attention, boxes, carafe, losses, regions, sync_bn
from . import deform as convolution

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
            convolution.deform_conv_backward_input,
            convolution.deform_conv_backward_parameters,
            convolution.deform_conv_forward,
            convolution.masked_col2im_forward,
            convolution.masked_im2col_forward,
            convolution.modulated_deform_conv_backward,
            convolution.modulated_deform_conv_forward,
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

# Who calls the operators that have no stand-in, by the first letters of their names.
USERS = {
    'MMAction2': ('tin_shift',),
    'MMDetection3D': (
        'assign_score',
        'ball_query',
        'diff_iou_rotated',
        'dynamic_',
        'furthest_point',
        'fused_indice',
        'gather_points',
        'get_indice',
        'group_points',
        'hard_voxelize',
        'indice_',
        'iou3d',
        'knn',
        'points_in_boxes',
        'roiaware_pool3d',
        'roipoint_pool3d',
        'stack_',
        'three_',
    ),
    'MMFlow': ('correlation',),
    'MMOCR': ('bezier_align', 'contour_expand', 'pixel_group'),
    'MMRotate': (
        'active_rotated',
        'box_iou',
        'convex_',
        'diff_iou_rotated',
        'min_area_polygons',
        'nms_quadri',
        'nms_rotated',
        'points_in_polygons',
        'riroi_align',
        'roi_align_rotated',
        'rotated_feature',
    ),
    'MMSegmentation': ('psamask',),
    'MMTracking': ('prroi_pool',),
    'MMagic': ('bias_act', 'filtered_lrelu', 'fused_bias', 'upfirdn2d'),
}

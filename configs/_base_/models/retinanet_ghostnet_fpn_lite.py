# RetinaNet for 320 px: 96 channels, two convolutions a branch, six anchors a cell, batch norm in
# neck and head (one set of statistics for each pyramid level, since their activations differ).
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(_delete_=True, type='GhostNet', width=1.0, out_indices=(0, 1, 2, 3)),
    neck=dict(
        in_channels=[24, 40, 112, 160], out_channels=96, norm_cfg=norm_cfg, add_extra_convs='on_output'
    ),
    bbox_head=dict(
        type='RetinaSepBNHead',
        num_ins=5,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        # From 24 px at stride 8: at 320 px, COCO's median box is about 30 px wide.
        anchor_generator=dict(octave_base_scale=3, scales_per_octave=2),
    ),
)

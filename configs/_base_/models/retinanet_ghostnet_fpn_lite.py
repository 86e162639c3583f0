# RetinaNet for 320 px: 64 channels, two convolutions a branch, six anchors a cell, batch norm in
# neck and head (one set of statistics for each pyramid level, since their activations differ).
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    # Each step at another size: sees more scales, and costs half of a step at 320 px. Sizes of 224 to 416 px,
    # at more than twice the cost, gained 1.3 AP on a small data set (docs/results.md, "Necks and heads").
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchSyncRandomResize', random_size_range=(160, 288), size_divisor=32, interval=1)
        ]
    ),
    backbone=dict(
        _delete_=True,
        type='GhostNet',
        width=1.0,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='ghost://ghostnet_100.tin'),
    ),
    neck=dict(
        in_channels=[24, 40, 112, 160], out_channels=64, norm_cfg=norm_cfg, add_extra_convs='on_output'
    ),
    bbox_head=dict(
        type='RetinaSepBNHead',
        num_ins=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
        # From 24 px at stride 8: at 320 px, COCO's median box is about 30 px wide.
        anchor_generator=dict(octave_base_scale=3, scales_per_octave=2),
    ),
)

# GFL for 320 px: one prediction a cell, from a depthwise head. Its squares only choose, by how near they are
# to a box (ATSS), which cells learn that box: there are no anchors to fit to the data.
model = dict(
    type='GFL',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        # Each step at another size, on average that of the evaluation: sizes of 160 to 288 px take half of
        # the time, but lost 8 AP on a small data set (docs/results.md, "Necks and heads").
        batch_augments=[
            dict(type='BatchSyncRandomResize', random_size_range=(224, 416), size_divisor=32, interval=1)
        ],
    ),
    backbone=dict(type='GhostNet', width=1.0, out_indices=(0, 1, 2, 3), last_blocks=2),
    neck=dict(type='GhostPAN', in_channels=[24, 40, 112, 160], out_channels=96, num_outs=4, start_level=1),
    bbox_head=dict(
        type='GFLSepBNHead',
        num_classes=80,
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=5,
            scales_per_octave=1,
            strides=[8, 16, 32, 64],
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        reg_max=8,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
    ),
)

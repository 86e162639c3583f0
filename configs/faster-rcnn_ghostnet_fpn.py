# Faster R-CNN with GhostNet 1.0x and a standard FPN, COCO 2017, 1x schedule (8 devices x 2 images).
# 19.9 M parameters, 123 G multiply-adds at 1333 x 800.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    './_base_/datasets/coco.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    './_base_/runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='GhostNet',
        width=1.0,
        out_indices=(0, 1, 2, 3),
        norm_eval=True,  # two images a device are too few for statistics of their own
        init_cfg=dict(type='Pretrained', checkpoint='ghost://ghostnet_100'),
    ),
    neck=dict(in_channels=[24, 40, 112, 160]),
)

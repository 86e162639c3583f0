# The lite GFL for 416 px, for smaller objects.
# 1.9 M parameters, 0.7 G multiply-adds at 416 x 416.
_base_ = [
    './_base_/models/gfl_ghostnet_ghostpan_lite.py',
    './_base_/datasets/coco_416.py',
    './_base_/schedules/schedule_gfl_lite.py',
    './_base_/runtime.py',
]
load_from = 'ghost://gfl_ghostnet.tin'  # all but the class layer
model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchSyncRandomResize', random_size_range=(320, 512), size_divisor=32, interval=1)
        ]
    )
)

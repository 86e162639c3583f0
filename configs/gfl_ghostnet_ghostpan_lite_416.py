# The lite GFL for 416 px, for smaller objects.
# 1.9 M parameters, 0.7 G multiply-adds at 416 x 416.
_base_ = [
    './_base_/models/gfl_ghostnet_ghostpan_lite.py',
    './_base_/datasets/coco_416.py',
    './_base_/schedules/schedule_lite.py',
    './_base_/runtime.py',
]
load_from = 'ghost://gfl_ghostnet.tin'  # all but the class layer
# AdamW moves every weight as far: sums of few, as those of 1x1 predictions, would follow too slowly.
optim_wrapper = dict(paramwise_cfg=dict(bypass_duplicate=True, custom_keys={'gfl_': dict(lr_mult=6.0)}))
model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchSyncRandomResize', random_size_range=(320, 512), size_divisor=32, interval=1)
        ]
    )
)

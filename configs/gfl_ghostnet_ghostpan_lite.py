# GFL with GhostNet 1.0x and GhostPAN at 320 px: the fastest of these configs, on CPUs and phones.
# 1.9 M parameters, 0.4 G multiply-adds at 320 x 320.
_base_ = [
    './_base_/models/gfl_ghostnet_ghostpan_lite.py',
    './_base_/datasets/coco_320.py',
    './_base_/schedules/schedule_lite.py',
    './_base_/runtime.py',
]
load_from = 'ghost://gfl_ghostnet.tin'  # all but the class layer
# AdamW moves every weight as far: sums of few, as those of 1x1 predictions, would follow too slowly.
optim_wrapper = dict(paramwise_cfg=dict(bypass_duplicate=True, custom_keys={'gfl_': dict(lr_mult=6.0)}))

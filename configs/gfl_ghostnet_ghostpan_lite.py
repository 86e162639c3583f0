# GFL with GhostNet 1.0x and GhostPAN at 320 px: the fastest of these configs, on CPUs and phones.
# 1.9 M parameters, 0.4 G multiply-adds at 320 x 320.
_base_ = [
    './_base_/models/gfl_ghostnet_ghostpan_lite.py',
    './_base_/datasets/coco_320.py',
    './_base_/schedules/schedule_gfl_lite.py',
    './_base_/runtime.py',
]
load_from = 'ghost://gfl_ghostnet.tin'  # all but the class layer

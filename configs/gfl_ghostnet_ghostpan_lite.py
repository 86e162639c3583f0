# GFL with GhostNet 1.0x and GhostPAN at 320 px: the fastest of these configs, on CPUs and phones.
_base_ = [
    './_base_/models/gfl_ghostnet_ghostpan_lite.py',
    './_base_/datasets/coco_320.py',
    './_base_/schedules/schedule_lite.py',
    './_base_/runtime.py',
]

# RetinaNet with GhostNet 1.0x at 320 px and a light head: trains on a CPU, runs on a phone.
# 3.2 M parameters, 1.3 G multiply-adds at 320 x 320.
_base_ = [
    './_base_/models/retinanet_ghostnet_fpn_lite.py',
    './_base_/datasets/coco_320.py',
    './_base_/schedules/schedule_lite.py',
    './_base_/runtime.py',
]

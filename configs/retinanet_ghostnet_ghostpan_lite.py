# The lite RetinaNet with GhostPAN, a neck of ghost bottlenecks, in the place of its FPN.
# 3.0 M parameters, 1.2 G multiply-adds at 320 x 320.
_base_ = './retinanet_ghostnet_fpn_lite.py'
model = dict(
    neck=dict(
        _delete_=True,
        type='GhostPAN',
        in_channels=[24, 40, 112, 160],
        out_channels=64,
        num_outs=5,
        start_level=1,
    ),
)

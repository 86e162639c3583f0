_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['ghost_det'], allow_failed_imports=False)
# Channels-last makes a CPU training step about 1.4 times faster; enabled=False turns it off.
custom_hooks = [dict(type='ChannelsLastHook', enabled=True)]
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP'),
    weights=dict(type='DetectorWeightsHook'),  # for load_from='ghost://NAME'
)

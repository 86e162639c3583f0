# The lite schedule for the lite GFL.
_base_ = './schedule_lite.py'
# AdamW moves every weight as far: sums of few, as those of 1x1 predictions, would follow too slowly.
optim_wrapper = dict(paramwise_cfg=dict(bypass_duplicate=True, custom_keys={'gfl_': dict(lr_mult=6.0)}))

# AdamW with a cosine, for one device and a batch of 8; --auto-scale-lr fits it to others.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=24, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=35),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=24,
        T_max=24,
        eta_min_ratio=0.01,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
# ghost-det train --data repeats a small data set until `images` images were seen, unless max_epochs is set.
small_data = dict(epochs=24, images=6000, most_epochs=100)

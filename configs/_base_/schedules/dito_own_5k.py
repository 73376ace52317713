# For own data on one GPU, from a public tower: 5,000 steps of 16 images with
# AdamW, which needs fewer of them than the paper's SGD. By experience with
# detectors on ViTs, not from the paper: 5,000 x 16 = 80,000 images, that is 80
# epochs of a set of 1,000. Of the backbone a tenth of the rate.
max_iters = 5000

train_cfg = dict(
    type='DITOTrainLoop',
    total_batch_size=16,
    max_iters=max_iters,
    val_interval=1000,
)
auto_scale_lr = dict(base_batch_size=16, enable=False)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1, decay_mult=0.0),
            vlm_proj=dict(lr_mult=0.1, decay_mult=0.0),
            temperature_scale=dict(decay_mult=0.0),
        ),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=250),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=250,
        end=max_iters,
        T_max=max_iters - 250,
        eta_min_ratio=0.02,
    ),
]

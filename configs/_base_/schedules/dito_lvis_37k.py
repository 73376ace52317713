# Paper 4: batch 128, SGD with momentum 0.9, learning rate 0.18 and 0.6 times
# it for the backbone, 36.8k iterations. On LVIS-base (about 100k images):
#   36,800 x 128 / 100,000 = 47 epochs.
# Shape from the release, the paper being silent: linear warm-up from 0.0032
# over 1,000 iterations, x 0.1 at 80, 90 and 95 percent, weight decay 1e-4 on
# the kernels of the heads only.
max_iters = 36800
base_lr = 0.18

# 128 images per step on any number of GPUs: each takes as many batches of
# train_dataloader.batch_size, one after the other, as that needs.
train_cfg = dict(
    type='DITOTrainLoop',
    total_batch_size=128,
    max_iters=max_iters,
    val_interval=max_iters,
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=base_lr, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.6, decay_mult=0.0),
            # "We add a 1x1 Conv projection layer to the finetuned ViT
            # backbone" (3.4): it has the backbone's rate.
            vlm_proj=dict(lr_mult=0.6, decay_mult=0.0),
            temperature_scale=dict(decay_mult=0.0),
        ),
    ),
)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.0032 / base_lr,
        by_epoch=False,
        begin=0,
        end=1000,
    ),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=max_iters,
        # 80, 90 and 95 percent of 36,800
        milestones=[29440, 33120, 34960],
        gamma=0.1,
    ),
]

# The batch that the learning rate above belongs to, which --auto-scale-lr
# scales from: to train_cfg.total_batch_size where that is changed, else to
# train_dataloader.batch_size on every process.
auto_scale_lr = dict(base_batch_size=128, enable=False)

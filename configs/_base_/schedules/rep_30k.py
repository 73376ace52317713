# Stage 2, paper 4 ("Pretraining setup"): 30k iterations x 4,096 pairs, AdamW,
# learning rate 1e-4 with linear decay to 0.
max_iters = 30000

# On any number of GPUs that divides the batch: a GPU embeds its share in
# micro-batches of train_dataloader.batch_size, with the gradient of the whole.
train_cfg = dict(
    type='ImageTextTrainLoop',
    total_batch_size=4096,
    max_iters=max_iters,
    val_interval=max_iters,
)

optim_wrapper = dict(
    type='DITOBF16OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-2, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(logit_scale=dict(decay_mult=0.0)),
    ),
)

param_scheduler = [
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=0,
        end=max_iters,
    ),
]

# The batch that the learning rate above belongs to, which --auto-scale-lr
# scales from: to train_cfg.total_batch_size where that is changed, else to
# train_dataloader.batch_size on every process.
auto_scale_lr = dict(base_batch_size=4096, enable=False)

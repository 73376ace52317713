# Stage 1, paper 4 ("Baseline reproduction"): 500k iterations x 16,384 = 8.2
# billion pairs seen. The paper refers to RO-ViT for the rest without numbers;
# these are those of CLIP's ViT-L/14 (Radford et al. 2021, Table 20): AdamW,
# learning rate 4e-4, beta2 0.98, epsilon 1e-6, weight decay 0.2, 2,000
# iterations of warm-up; with a linear decay as in stage 2.
max_iters = 500000
base_lr = 4e-4

# On any number of GPUs that divides the batch: a GPU embeds its share in
# micro-batches of train_dataloader.batch_size, with the gradient of the whole.
train_cfg = dict(
    type='ImageTextTrainLoop',
    total_batch_size=16384,
    max_iters=max_iters,
    val_interval=max_iters,
)

optim_wrapper = dict(
    type='DITOBF16OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=base_lr,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.2,
        fused=True,
    ),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            logit_scale=dict(decay_mult=0.0),
            in_proj_bias=dict(decay_mult=0.0),
            pos_embed=dict(decay_mult=0.0),
            positional_embedding=dict(decay_mult=0.0),
        ),
    ),
)

param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=2000
    ),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=2000,
        end=max_iters,
    ),
]

# The batch that the learning rate above belongs to, which --auto-scale-lr
# scales from: to train_cfg.total_batch_size where that is changed, else to
# train_dataloader.batch_size on every process.
auto_scale_lr = dict(base_batch_size=16384, enable=False)

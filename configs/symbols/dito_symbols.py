# Stage 3 on `symbols`: shifted windows, distillation, base classes only;
# tested on base and novel classes. Minutes on two cores; `make quickstart`
# runs it.
#
#   dito train configs/symbols/dito_symbols.py
#   dito test configs/symbols/dito_symbols.py \
#       work_dirs/dito_symbols/iter_200.pth
#
# Against the paper: AdamW, which needs fewer iterations than SGD.
_base_ = [
    '../_base_/models/dito_symbols.py',
    '../_base_/datasets/symbols_instance.py',
    '../_base_/default_runtime.py',
]

max_iters = 200

# Result of stage 2, rep_symbols.py.
load_from = 'work_dirs/rep_symbols/iter_450.pth'

model = dict(teacher=dict(checkpoint=load_from))

train_cfg = dict(
    type='DITOTrainLoop',
    total_batch_size=8,
    max_iters=max_iters,
    val_interval=max_iters,
)
auto_scale_lr = dict(base_batch_size=8, enable=False)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1, decay_mult=0.0),
            # Part of the backbone (3.4), as in dito_lvis_37k.py.
            vlm_proj=dict(lr_mult=0.1, decay_mult=0.0),
            temperature_scale=dict(decay_mult=0.0),
        ),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=30,
        end=max_iters,
        T_max=max_iters - 30,
        eta_min_ratio=0.02,
    ),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
custom_hooks = [
    dict(type='DITOVocabularyHook', templates=_base_.symbols_templates),
    _base_.custom_hooks[1],
]
randomness = dict(seed=0)

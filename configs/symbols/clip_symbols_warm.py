# Stage 1 on `symbols` as the shipped weights were made: from the tower of an
# earlier set of 153 names, whose image tower knows shapes and colours already.
# docs/benchmarks/symbols.md says how work_dirs/warm.pth is made of it.
#
#   dito train configs/symbols/clip_symbols_warm.py
#
# The run was stopped at iteration 450, and the second part went on from there.
_base_ = './clip_symbols.py'

max_iters = 900
load_from = 'work_dirs/warm.pth'

train_cfg = dict(max_iters=max_iters, val_interval=150)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=50),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=1e-4,
        by_epoch=False,
        begin=50,
        end=max_iters,
    ),
]
default_hooks = dict(checkpoint=dict(interval=150))

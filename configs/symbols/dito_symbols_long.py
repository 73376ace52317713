# Stage 3 on `symbols`, as the shipped detector was made: three times as long
# as dito_symbols.py, from the shipped result of rep_symbols_long.py.
#
#   dito train configs/symbols/dito_symbols_long.py
#   dito test configs/symbols/dito_symbols_long.py \
#       work_dirs/dito_symbols_long/iter_600.pth
_base_ = './dito_symbols.py'

max_iters = 600
load_from = '{{ fileDirname }}/assets/rep_symbols.safetensors'

model = dict(teacher=dict(checkpoint=load_from))
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
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

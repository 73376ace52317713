# Stage 2 on `symbols`, as the shipped result was made: seven times as long as
# rep_symbols.py, on four times as many pictures. An hour and a half of a core.
#
#   dito make-symbols --out-dir data/symbols \
#       --lone-shards 40
#   dito train configs/symbols/rep_symbols_long.py
#   dito publish-model --half \
#       work_dirs/rep_symbols_long/iter_3000.pth \
#       configs/symbols/assets/rep_symbols.safetensors
_base_ = './rep_symbols.py'

max_iters = 3000

train_dataloader = dict(
    dataset=dict(
        shards=_base_.data_root + 'image_text/lone-{000000..000039}.tar'
    )
)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=60),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=60,
        end=max_iters,
    ),
]
default_hooks = dict(checkpoint=dict(interval=250))

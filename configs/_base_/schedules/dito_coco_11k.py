# Paper 4: batch 128, learning rate 0.02, 11.3k iterations. On the 48 base
# classes of COCO (about 108k images): 11,300 x 128 / 108,000 = 13 epochs.
_base_ = './dito_lvis_37k.py'

max_iters = 11300
base_lr = 0.02

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=base_lr))
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
        # 80, 90 and 95 percent of 11,300
        milestones=[9040, 10170, 10735],
        gamma=0.1,
    ),
]

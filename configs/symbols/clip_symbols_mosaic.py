# Stage 1 on `symbols`, second part: the towers of clip_symbols.py learn to
# name parts of larger pictures. An hour on one core and a half:
#
#   dito train configs/symbols/clip_symbols_mosaic.py
#
# Three images in four come in mosaics of 3 x 3, 192 pixels like those of the
# detection set; the embedding of an image is the mean over its tile. Without
# this part the towers name whole pictures, but only a quarter of the objects
# in a scene. One mosaic in two is seen through the detector's windows, the
# others with global attention, so that a detector with global layers starts
# from a tower that knows scenes as well as one with windows does.
_base_ = './clip_symbols.py'

max_iters = 1900
load_from = 'work_dirs/clip_symbols/iter_4000.pth'

model = dict(
    backbone=dict(window=dict(size=8), global_layers=0),
    mosaic=dict(grid=3, jitter=0.35, prob=0.75, global_prob=0.5),
)

# Closer views: an object often fills its box, as in detection.
train_dataloader = dict(dataset=dict(scale=(0.4, 1.0)))
train_cfg = dict(max_iters=max_iters, val_interval=250)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=50),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=50,
        end=max_iters,
    ),
]
default_hooks = dict(checkpoint=dict(interval=125))

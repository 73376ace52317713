# Stage 2 on `symbols`: the pyramid and heads of the tiny detector learn from
# scenes and captions, on the frozen towers of stage 1 (paper 3.2). Minutes on
# two cores; `make quickstart` runs it.
#
#   python tools/dataset_converters/make_symbols.py --out data/symbols
#   python tools/train.py configs/symbols/rep_symbols.py
#
# Against the paper: patches of 8 and 128 pixels give the same 16 x 16 tokens
# as patches of 16 and 256 pixels; fewer boxes, for a CPU; the backbone has the
# windows of stage 3.
_base_ = ['../_base_/models/rep_symbols.py', '../_base_/pretrain_runtime.py']

data_root = 'data/symbols/'
max_iters = 350

# Result of stage 1, clip_symbols.py, shipped with the package.
load_from = '{{ fileDirname }}/assets/clip_symbols.safetensors'

train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=None,
    collate_fn=dict(type='image_text_collate'),
    dataset=dict(
        type='ImageTextShards',
        shards=data_root + 'image_text/scenes-{000000..000007}.tar',
        size=128,
        scale=(0.7, 1.0),
        num_streams=2))

train_cfg = dict(
    type='ImageTextTrainLoop', max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-2),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys=dict(logit_scale=dict(decay_mult=0.))))
# Linear decay, as in the paper.
param_scheduler = [
    dict(
        type='PolyLR', power=1.0, eta_min=0., by_epoch=False, begin=0,
        end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=350))
custom_hooks = [
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder', 'logit_scale'],
        allowed_missing=['neck', 'rpn_head', 'roi_head']),
]

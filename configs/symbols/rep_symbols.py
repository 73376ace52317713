# Stage 2 on `symbols`: the pyramid and heads of the tiny detector learn from
# pictures and captions, on the frozen towers of stage 1 (paper 3.2).
# Minutes on two cores; `make quickstart` runs it.
#
#   dito make-symbols --out-dir data/symbols
#   dito train configs/symbols/rep_symbols.py
#
# Against the paper: patches of 8 and 128 pixels give the same 16 x 16 tokens
# as patches of 16 and 256 pixels; fewer boxes, for a CPU; the backbone has the
# windows of stage 3. Pictures show one object somewhere among distractors:
# the tiny text tower has not learnt captions of several objects. The heads
# see thousands of pictures instead of 120 million, hence the learning rate.
_base_ = ['../_base_/models/rep_symbols.py', '../_base_/pretrain_runtime.py']

data_root = 'data/symbols/'
max_iters = 450

# Result of stage 1, clip_symbols.py, shipped with the package.
load_from = '{{ fileDirname }}/assets/clip_symbols.safetensors'

train_dataloader = dict(
    batch_size=18,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=None,
    collate_fn=dict(type='image_text_collate'),
    dataset=dict(
        type='ImageTextShards',
        shards=data_root + 'image_text/lone-{000000..000009}.tar',
        size=128,
        scale=(0.7, 1.0),
        num_streams=2,
    ),
)

# Retrieval on held-out pairs once training is over; seconds. Half of them are
# scenes of several objects, with which the text tower can do little.
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='image_text_collate'),
    dataset=dict(
        type='DITORetrievalDataset',
        shards=data_root + 'image_text/val-000000.tar',
        size=128,
    ),
)
val_evaluator = dict(type='DITORetrievalMetric')
val_cfg = dict(type='ValLoop')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='TestLoop')

train_cfg = dict(
    type='ImageTextTrainLoop',
    total_batch_size=18,
    max_iters=max_iters,
    val_interval=max_iters,
)
auto_scale_lr = dict(base_batch_size=18, enable=False)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            logit_scale=dict(decay_mult=0.0),
            # The paper's rate. The L1 loss has gradients of one size however
            # near its target is; ten times the rate kills hidden units.
            rpn_head=dict(lr_mult=0.1),
        ),
    ),
)
# Linear decay, as in the paper, after a short warm-up: at a cosine scale of
# 40 a first step of full size throws random heads far off.
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
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=max_iters)
)
custom_hooks = [
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder', 'logit_scale'],
        allowed_missing=['neck', 'rpn_head', 'roi_head'],
    ),
]

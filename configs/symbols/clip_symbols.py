# Stage 1 on `symbols`: contrastive pretraining of the shipped tiny towers.
#
# The tower's weights are an asset of the package, so this is only needed to
# train them anew (hours on two cores):
#   dito make-symbols --out-dir data/symbols \
#       --single-shards 72
#   dito train configs/symbols/clip_symbols.py
#
# The shipped weights were made in a tenth of this schedule from the tower of
# an earlier set of names, see clip_symbols_warm.py. This schedule, for a start
# from nothing, is that tower's in proportion to the names; it was not run.
#
# Batches hold neighbouring samples of one shard: `single` shards are written
# in blocks that go through all names, so a batch has few equal captions.
_base_ = ['../_base_/models/symbols_towers.py']
custom_imports = dict(imports=['dito'], allow_failed_imports=False)
default_scope = 'mmdet'

data_root = 'data/symbols/'
image_size = 64
batch_size = 198
max_iters = 4000
# Nearly constant learning rate until here, then linear decay to 0.
decay_from = 1500

model = dict(
    type='CLIPPretrainer',
    data_preprocessor=dict(type='ImageTextPreprocessor'),
    backbone={{_base_.symbols_backbone}},
    text_encoder={{_base_.symbols_text_encoder}},
    loss=dict(type='DITOContrastiveLoss'),
    # The grid has 8 x 8 places: enlarged by the paper's factor 64 / 14.
    cpe=dict(up_size=36),
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=None,
    collate_fn=dict(type='image_text_collate'),
    dataset=dict(
        type='ImageTextShards',
        shards=data_root + 'image_text/single-{000000..000071}.tar',
        size=image_size,
        scale=(0.7, 1.0),
        num_streams=1,
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='image_text_collate'),
    dataset=dict(
        type='DITOFolderDataset',
        root=data_root + 'zero_shot',
        categories=data_root + 'categories.json',
        size=image_size,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='DITOZeroShotMetric')
test_evaluator = val_evaluator

train_cfg = dict(
    type='ImageTextTrainLoop',
    total_batch_size=batch_size,
    max_iters=max_iters,
    val_interval=250,
)
auto_scale_lr = dict(base_batch_size=batch_size, enable=False)
# Beside zero-shot classes, retrieval on held-out pairs, of which half are
# scenes of several objects.
val_cfg = dict(
    type='DITOMultiValLoop',
    extra=[
        dict(
            dataloader=dict(
                val_dataloader,
                dataset=dict(
                    type='DITORetrievalDataset',
                    shards=data_root + 'image_text/val-000000.tar',
                    size=image_size,
                ),
            ),
            evaluator=dict(type='DITORetrievalMetric'),
        ),
    ],
)
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1.2e-3, betas=(0.9, 0.98), weight_decay=0.05
    ),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(
            logit_scale=dict(decay_mult=0.0),
            pos_embed=dict(decay_mult=0.0),
            positional_embedding=dict(decay_mult=0.0),
        ),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=100),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=100,
        end=decay_from,
        T_max=6000,
        eta_min=1e-5,
    ),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=decay_from,
        end=max_iters,
    ),
]

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='DITOLoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='DITOCheckpointHook',
        by_epoch=False,
        interval=250,
        max_keep_ckpts=2,
        save_best='zero_shot/all_top1',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    evaluation_report=dict(type='DITOEvaluationReportHook'),
    guard=dict(type='DITONonFiniteGuardHook'),
)
custom_hooks = [
    dict(type='DITOZeroShotHook', templates=['a photo of a {}.']),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# Shares of one batch are noisy: logged are means, as for losses.
log_processor = dict(
    type='LogProcessor',
    window_size=50,
    by_epoch=False,
    mean_pattern=r'.*(loss|time|grad_norm|recall|win_|rpn_target).*',
)
log_level = 'INFO'
randomness = dict(seed=0)
load_from = None
resume = False

# What all detection configs have in common.
custom_imports = dict(imports=['dito'], allow_failed_imports=False)
default_scope = 'mmdet'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='DITOLoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='DITOCheckpointHook',
        by_epoch=False,
        interval=1000,
        max_keep_ckpts=2,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    evaluation_report=dict(type='DITOEvaluationReportHook'),
    run_length_masks=dict(type='DITORunLengthMasksHook'),
    iteration_seed=dict(type='DITOIterationSeedHook'),
    guard=dict(type='DITONonFiniteGuardHook'),
    throughput=dict(type='DITOThroughputHook'),
)

# The text tower of the model embeds the class names of the data set; files
# made by dito build-text-embeddings can be given as train= and test=.
# A training must find all that pretraining has learnt.
custom_hooks = [
    dict(type='DITOVocabularyHook', templates='openai'),
    dict(
        type='DITOLoadReportHook',
        required=[
            'backbone',
            'neck',
            'rpn_head',
            'roi_head.bbox_head',
            'text_encoder',
        ],
        allowed_missing=['roi_head.mask_head', 'roi_head.vlm_proj'],
        allowed_unused=['logit_scale', 'logit_bias', 'level_proj'],
    ),
]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# TensorBoard or Weights & Biases as well: see log_backends.py.
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='DITOLocalVisualizer', vis_backends=vis_backends, name='visualizer'
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

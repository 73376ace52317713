# What the pretraining configs have in common.
custom_imports = dict(imports=['dito'], allow_failed_imports=False)
default_scope = 'mmdet'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='DITOLoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='DITOCheckpointHook',
        by_epoch=False,
        interval=5000,
        max_keep_ckpts=2,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    evaluation_report=dict(type='DITOEvaluationReportHook'),
    iteration_seed=dict(type='DITOIterationSeedHook'),
    guard=dict(type='DITONonFiniteGuardHook'),
    # With peak_tflops of the device (989 for an H100 in bfloat16) it logs the
    # share of it that is used.
    throughput=dict(type='DITOThroughputHook'),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# TensorBoard or Weights & Biases as well: see log_backends.py.
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='Visualizer', vis_backends=vis_backends, name='visualizer'
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

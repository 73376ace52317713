# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
# Learn y = 3x in 8 steps; used by test_train_test.py.
custom_imports = dict(imports=['toy_parts'], allow_failed_imports=False)
default_scope = 'mmdet'

model = dict(type='ToyLine')
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ToyNumbers', pipeline=[]),
)
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ToyNumbers', pipeline=[]),
)
test_evaluator = dict(type='ToySum')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5))
auto_scale_lr = dict(base_batch_size=4, enable=False)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
randomness = dict(seed=0)

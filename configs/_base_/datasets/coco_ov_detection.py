# COCO for open-vocabulary detection: trained on 48 base classes, tested on
# these and 17 novel ones (paper, table 2). Boxes only, as the benchmark has
# it. The 15 remaining classes of COCO are not used.
#
# The unchanged instances_*2017.json are read; split='base' leaves the novel
# classes out. (dito coco2ov writes smaller files.)
dataset_type = 'DITOCocoDataset'
data_root = 'data/coco/'
image_size = (1024, 1024)
backend_args = None

# Large-scale jitter as for LVIS; padded by the model's data_preprocessor.
train_pipeline = [
    dict(
        type='DITOLoadImageFromFile',
        on_error='skip',
        backend_args=backend_args,
    ),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomResize',
        scale=image_size,
        ratio_range=(0.1, 2.0),
        keep_ratio=True,
    ),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=image_size,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='DITOLoadImageFromFile', backend_args=backend_args),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        ),
    ),
]

# batch_size is what a GPU takes at a time; the batch of a step is in the
# schedule.
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        split='base',
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
        backend_args=backend_args,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        split='all',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

# coco/novel_ap50 and coco/all_ap50 are the columns of the paper's table 2.
val_evaluator = dict(
    type='DITOCocoMetric',
    ann_file=data_root + 'annotations/instances_val2017.json',
    metric='bbox',
)
test_evaluator = val_evaluator

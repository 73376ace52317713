# LVIS v1 for open-vocabulary detection: trained on the 866 frequent and
# common classes, tested on all 1,203, the 337 rare ones being novel (paper
# 4.1). Boxes and masks.
#
# The unchanged files of lvisdataset.org are read; split='base' leaves the
# rare classes and their objects out. (dito lvis2ov
# writes smaller base-only files, which load faster.)
#
# data/lvis_v1/
#     annotations/lvis_v1_train.json, lvis_v1_val.json
#     train2017/, val2017/      # COCO images: LVIS takes from both folders
dataset_type = 'DITOLVISDataset'
data_root = 'data/lvis_v1/'
image_size = (1024, 1024)
backend_args = None

# Large-scale jitter: 0.1 to 2 times 1,024, a crop of 1,024 where larger. The
# model's data_preprocessor pads to the square. Boxes are clipped to the crop,
# objects cut away go (release).
train_pipeline = [
    dict(
        type='DITOLoadImageFromFile',
        on_error='skip',
        backend_args=backend_args,
    ),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
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
# An image that cannot be read stops a test: skipping it changes the result.
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
# schedule. Neither paper nor release resamples rare images, so there is no
# ClassBalancedDataset here.
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        split='base',
        data_root=data_root,
        ann_file='annotations/lvis_v1_train.json',
        data_prefix=dict(img=''),
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
        ann_file='annotations/lvis_v1_val.json',
        data_prefix=dict(img=''),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

# lvis/segm_APr is the number of the paper's table 1.
val_evaluator = dict(
    type='DITOLVISMetric',
    ann_file=data_root + 'annotations/lvis_v1_val.json',
    metric=['bbox', 'segm'],
    max_dets=300,
    backend_args=backend_args,
)
test_evaluator = val_evaluator

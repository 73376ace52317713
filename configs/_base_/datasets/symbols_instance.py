# symbols, the embedded data set, in LVIS form: pictographs at 192 x 192
# pixels with boxes and masks; classes of frequency 'r' are novel. Make it by
#
#   dito make-symbols --out-dir data/symbols
#
# train_base.json has neither boxes nor names of the novel classes.
dataset_type = 'DITOLVISDataset'
data_root = 'data/symbols/'
image_size = (192, 192)
backend_args = None

# Mild jitter; the model's data_preprocessor pads to the square. No flip: a
# mirrored glyph is another glyph.
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
        ratio_range=(0.8, 1.25),
        keep_ratio=True,
    ),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    # Pieces of a glyph that are left at the edge of the crop name nothing.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(8, 8)),
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

# Loading 8 images takes far less than a step on a CPU: one worker is enough.
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        split='base',
        data_root=data_root,
        ann_file='annotations/train_base.json',
        data_prefix=dict(img=''),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
        backend_args=backend_args,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        split='all',
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img=''),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

val_ann_file = data_root + 'annotations/val.json'
val_evaluator = dict(
    type='DITOLVISMetric',
    ann_file=val_ann_file,
    metric=['bbox', 'segm'],
    backend_args=backend_args,
)
# Every class is annotated in every picture, so the rules of COCO hold as
# well. The third metric needs model.test_cfg.given_boxes.
test_evaluator = [
    dict(val_evaluator, protocols=['standard', 'fixed']),
    dict(type='DITOCocoMetric', ann_file=val_ann_file, metric='bbox'),
    dict(type='DITORegionMetric'),
]

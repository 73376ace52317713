# Train on 14 images with boxes of eight categories; test on six images with
# boxes of twelve.
_base_ = 'dito::symbols/dito_symbols.py'

data_root = 'tests/data/twenty/'
boxed = [
    'airplane',
    'anchor',
    'cat',
    'coffee cup',
    'flower',
    'heart',
    'house',
    'key',
]
unboxed = ['scissors', 'snowflake', 'snowman', 'umbrella']

# Boxes only, so no masks. Here the tower of stage 1; a checkpoint of stage 2
# or of a trained detector is a better start.
load_from = 'configs/symbols/assets/clip_symbols.safetensors'
model = dict(
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
    teacher=dict(checkpoint=load_from),
)
custom_hooks = [
    dict(type='DITOVocabularyHook', templates=_base_.symbols_templates),
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder'],
        allowed_missing=['neck', 'rpn_head', 'roi_head'],
        allowed_unused=['logit_scale'],
    ),
]

train_pipeline = [
    dict(type='DITOLoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomResize',
        scale=(192, 192),
        ratio_range=(0.8, 1.25),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(192, 192), allow_negative_crop=True),
    dict(type='PackDetInputs'),
]
# Images per step, shared by all processes; batch_size is what each takes at a
# time.
train_cfg = dict(total_batch_size=4)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='DITOCocoDataset',
        # Everything in the file is trained on; 'base' would leave out what
        # metainfo calls novel.
        split='all',
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=boxed),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='DITOCocoDataset',
        data_root=data_root,
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=boxed + unboxed, novel_classes=unboxed),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='DITOCocoMetric',
    ann_file=data_root + 'val.json',
    metric='bbox',
)
test_evaluator = val_evaluator

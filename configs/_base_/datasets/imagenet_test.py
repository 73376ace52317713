# Test of a finished stage 1 at 224 pixels: zero-shot ImageNet (folders of
# synsets, CLIP's names and 80 prompts). Needs onedl-mmpretrain.
#
# data/imagenet/val/n01440764/*.JPEG ...
eval_size = 224

test_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='image_text_collate'),
    dataset=dict(
        type='DITOClassificationDataset',
        size=eval_size,
        names='imagenet',
        dataset=dict(
            type='mmpretrain.ImageNet', data_root='data/imagenet', split='val'
        ),
    ),
)
# imagenet/all_top1, in percent.
test_evaluator = dict(type='DITOZeroShotMetric', prefix='imagenet')
test_cfg = dict(type='TestLoop')

custom_hooks = [
    dict(type='DITOZeroShotHook', templates='openai'),
    dict(type='DITOLoadReportHook'),
]

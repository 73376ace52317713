# Evaluation during pretraining at 224 pixels: zero-shot ImageNet (folders of
# synsets, CLIP's names and 80 prompts) and retrieval on a held-out shard.
# Inherit from it and set train_cfg.val_interval. Needs onedl-mmpretrain.
#
# data/imagenet/val/n01440764/*.JPEG ...
# data/laion2b/held_out.tar
eval_size = 224

eval_loader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='image_text_collate'),
)

val_dataloader = dict(
    **eval_loader,
    dataset=dict(
        type='DITOClassificationDataset',
        size=eval_size,
        names='imagenet',
        dataset=dict(type='ImageNet', data_root='data/imagenet', split='val'),
    ),
)
val_evaluator = dict(
    type='mmpretrain.Accuracy', topk=(1, 5), prefix='imagenet'
)
val_cfg = dict(
    type='DITOMultiValLoop',
    extra=[
        dict(
            dataloader=dict(
                **eval_loader,
                dataset=dict(
                    type='DITORetrievalDataset',
                    shards='data/laion2b/held_out.tar',
                    size=eval_size,
                ),
            ),
            evaluator=dict(type='DITORetrievalMetric'),
        ),
    ],
)

custom_hooks = [dict(type='DITOZeroShotHook', templates='openai')]

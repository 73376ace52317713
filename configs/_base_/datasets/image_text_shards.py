# Image-text pairs in tar shards, as img2dataset writes them: KEY.jpg and
# KEY.txt. LAION-2B-en is about 232,000 shards of 10,000 pairs.
#
# data/laion2b/000000.tar ... 231349.tar
#
# num_streams must be a multiple of processes x workers; the order of the
# samples depends on it and on the seed, not on the number of processes.
# Mixtures, captions, filters, remote shards: docs/pretraining.md.
crop_size = 224
shards = 'data/laion2b/{000000..231349}.tar'

train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=None,
    collate_fn=dict(type='image_text_collate'),
    dataset=dict(
        type='ImageTextShards',
        shards=shards,
        size=crop_size,
        scale=(0.4, 1.0),
        num_streams=2048,
        shuffle_block=500,
    ),
)

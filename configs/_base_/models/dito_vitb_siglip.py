# DITO with SigLIP's public ViT-B/16 (docs/pretrained_towers.md).
_base_ = './dito_vitb.py'

model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]
    ),
    backbone=dict(act='gelu', head=dict(pool='attn_pool')),
    # The tower's attention pools 14 x 14 samples of a region, as it pools
    # the 14 x 14 cells of its own images.
    roi_head=dict(
        vlm_roi_extractor=dict(
            roi_layer=dict(output_size=14, sampling_ratio=1, aligned=True)
        )
    ),
    text_encoder=dict(
        arch='ViT-B-16-SigLIP',
        context_length=64,
        # How texts are cleaned comes with the converted weights.
        tokenizer=dict(path='pretrained/siglip_tokenizer'),
    ),
)

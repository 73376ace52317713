# DITO with CLIP's public ViT-B/16 of open_clip (docs/pretrained_towers.md).
_base_ = './dito_vitb.py'

# The tower is 768 wide and projects into the 512 dimensions of the texts.
text_dims = 512

model = dict(
    backbone=dict(
        class_token=True,
        pre_norm=True,
        patch_bias=False,
        act='gelu',
        norm_eps=1e-5,
        # Regions: the mean of the last layer's values, then projected. Other
        # ways by dense='avg'.
        head=dict(pool='token', out_dims=text_dims),
    ),
    roi_head=dict(
        bbox_head=dict(embed_dims=text_dims),
        # Samples at the centres of cells: the whole image is the image.
        vlm_roi_extractor=dict(roi_layer=dict(aligned=True)),
    ),
    text_encoder=dict(embed_dims=text_dims),
)

# DITO with ViT-B/16: dito_vitl.py with another tower.
_base_ = './dito_vitl.py'

embed_dims = 768

model = dict(
    backbone=dict(arch='base', with_cp=False),
    neck=dict(in_channels=embed_dims),
    roi_head=dict(
        bbox_head=dict(embed_dims=embed_dims),
        vlm_roi_extractor=dict(out_channels=embed_dims),
    ),
    text_encoder=dict(arch='ViT-B-16', embed_dims=embed_dims),
)

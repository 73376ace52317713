# DITO with ViT-S/16: dito_vitl.py with another tower.
_base_ = './dito_vitl.py'

embed_dims = 384

model = dict(
    backbone=dict(arch='small', with_cp=False),
    neck=dict(in_channels=embed_dims),
    roi_head=dict(
        bbox_head=dict(embed_dims=embed_dims),
        vlm_roi_extractor=dict(out_channels=embed_dims),
    ),
    text_encoder=dict(arch='ViT-S-16', embed_dims=embed_dims),
)

# Stage 2 with ViT-S/16: rep_vitl16.py with other towers.
_base_ = './rep_vitl16.py'

embed_dims = 384

model = dict(
    backbone=dict(arch='small'),
    neck=dict(in_channels=embed_dims),
    roi_head=dict(bbox_head=dict(embed_dims=embed_dims)),
    text_encoder=dict(arch='ViT-S-16', embed_dims=embed_dims),
)

# Stage 2 with ViT-B/16: rep_vitl16.py with other towers.
_base_ = './rep_vitl16.py'

embed_dims = 768

model = dict(
    backbone=dict(arch='base'),
    neck=dict(in_channels=embed_dims),
    roi_head=dict(bbox_head=dict(embed_dims=embed_dims)),
    text_encoder=dict(arch='ViT-B-16', embed_dims=embed_dims),
)

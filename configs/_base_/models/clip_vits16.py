# Stage 1 with ViT-S/16: clip_vitl16.py with other towers.
_base_ = './clip_vitl16.py'

embed_dims = 384

model = dict(
    backbone=dict(arch='small', with_cp=False),
    text_encoder=dict(arch='ViT-S-16', embed_dims=embed_dims),
)

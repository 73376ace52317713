# Stage 1 with ViT-B/16: clip_vitl16.py with other towers.
_base_ = './clip_vitl16.py'

embed_dims = 768

model = dict(
    backbone=dict(arch='base', with_cp=False),
    text_encoder=dict(arch='ViT-B-16', embed_dims=embed_dims),
)

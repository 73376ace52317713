# Stage 1: CLIP pretraining of ViT-S/16 on LAION-2B, as clip_vitl16_laion2b.py
# with other towers. Not run here.
#
#   tools/dist_train.sh configs/pretrain/clip_vits16_laion2b.py GPUS
_base_ = './clip_vitl16_laion2b.py'

embed_dims = 384

model = dict(
    backbone=dict(arch='small', with_cp=False),
    text_encoder=dict(arch='ViT-S-16', embed_dims=embed_dims),
)

# CLIP's rate for its smaller towers.
optim_wrapper = dict(optimizer=dict(lr=5e-4))

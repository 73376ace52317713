# Stage 2: region-centric pretraining with ViT-S/16 on LAION-2B, as
# rep_vitl16_laion2b.py with other towers. Not run here.
#
#   tools/dist_train.sh configs/pretrain/rep_vits16_laion2b.py GPUS
_base_ = './rep_vitl16_laion2b.py'

embed_dims = 384

# Result of stage 1, clip_vits16_laion2b.py.
load_from = 'work_dirs/clip_vits16_laion2b/iter_500000.pth'

model = dict(
    backbone=dict(arch='small'),
    neck=dict(in_channels=embed_dims),
    roi_head=dict(bbox_head=dict(embed_dims=embed_dims)),
    text_encoder=dict(arch='ViT-S-16', embed_dims=embed_dims),
)

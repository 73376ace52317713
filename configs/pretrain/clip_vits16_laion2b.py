# Stage 1: CLIP pretraining of ViT-S/16 on LAION-2B, as clip_vitl16_laion2b.py.
# Not run here.
#
#   tools/dist_train.sh configs/pretrain/clip_vits16_laion2b.py GPUS
_base_ = [
    '../_base_/models/clip_vits16.py',
    '../_base_/datasets/image_text_shards.py',
    '../_base_/datasets/imagenet_test.py',
    '../_base_/schedules/clip_500k.py',
    '../_base_/pretrain_runtime.py',
]

# CLIP's rate for its smaller towers.
optim_wrapper = dict(optimizer=dict(lr=5e-4))

# Stage 1 with ViT-L/16 and RO-ViT's focal contrastive loss instead of InfoNCE
# (Kim et al. 2023; the paper has InfoNCE). Not run here.
#
#   tools/dist_train.sh configs/pretrain/clip_vitl16_laion2b_focal.py GPUS
#
# The release sums over the matrix; divided by the batch, 16,384, the loss
# keeps the size of InfoNCE's and the learning rate its meaning.
_base_ = './clip_vitl16_laion2b.py'

model = dict(
    loss=dict(
        type='DITOFocalContrastiveLoss', alpha=0.5, gamma=1.0, normalizer=16384
    )
)

# Stage 2 with ViT-L/16: the mean over the boxes of a level
# (paper, Table 4c, multi RoIs, avg/lvl).
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rep_vitl16_laion2b_avg.py GPUS
_base_ = '../pretrain/rep_vitl16_laion2b.py'

model = dict(pooling='mean')

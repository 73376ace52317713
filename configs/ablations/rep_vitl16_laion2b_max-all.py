# Stage 2 with ViT-L/16: the maximum over the boxes of all levels
# (paper, Table 4c, multi RoIs, max all).
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rep_vitl16_laion2b_max-all.py GPUS
_base_ = '../pretrain/rep_vitl16_laion2b.py'

model = dict(levels='all')

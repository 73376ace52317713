# Stage 2 with ViT-L/16: whole maps, maximised, through the head
# (paper, Table 4c, global max/lvl).
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rep_vitl16_laion2b_global-max.py GPUS
_base_ = '../pretrain/rep_vitl16_laion2b.py'

model = dict(pooling='global_max')

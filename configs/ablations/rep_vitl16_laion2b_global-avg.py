# Stage 2 with ViT-L/16: whole maps, averaged, through the head
# (paper, Table 4c, global avg/lvl).
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rep_vitl16_laion2b_global-avg.py GPUS
_base_ = '../pretrain/rep_vitl16_laion2b.py'

model = dict(pooling='global_mean')

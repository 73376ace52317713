# Stage 1 of ViT-L/16 on DataComp-1B instead of LAION-2B (paper, Tables 1 and
# 2, last rows), with the schedule of LAION-2B: the paper names no other. Not
# run here.
#
#   tools/dist_train.sh configs/pretrain/clip_vitl16_datacomp1b.py GPUS
_base_ = './clip_vitl16_laion2b.py'

# Shards of 10,000 pairs; their number must be that of the files.
train_dataloader = dict(
    dataset=dict(shards='data/datacomp1b/{00000000..00139999}.tar')
)

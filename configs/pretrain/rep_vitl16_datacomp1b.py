# Stage 2 of ViT-L/16 on DataComp-1B, after clip_vitl16_datacomp1b.py, as
# rep_vitl16_laion2b.py. Not run here.
#
#   tools/dist_train.sh configs/pretrain/rep_vitl16_datacomp1b.py GPUS
_base_ = './rep_vitl16_laion2b.py'

load_from = 'work_dirs/clip_vitl16_datacomp1b/iter_500000.pth'

train_dataloader = dict(
    dataset=dict(shards='data/datacomp1b/{00000000..00139999}.tar')
)

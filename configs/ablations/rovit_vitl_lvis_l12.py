# Table 5b, 12 of 24 layers global, base.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_l12.py GPUS
_base_ = '../rovit_vitl_lvis.py'

model = dict(backbone=dict(global_layers=12))

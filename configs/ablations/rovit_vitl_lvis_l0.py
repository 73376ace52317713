# Table 5b, no global layer, base.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_l0.py GPUS
_base_ = '../rovit_vitl_lvis.py'

model = dict(backbone=dict(global_layers=0))

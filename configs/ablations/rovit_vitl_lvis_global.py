# Table 5a, fully global attention, and 5b, 24 layers.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_global.py GPUS
_base_ = '../rovit_vitl_lvis.py'

model = dict(backbone=dict(window=None))

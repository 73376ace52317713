# Table 5b, 12 of 24 layers global, w/ SWL.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_l12_swl.py GPUS
_base_ = './rovit_vitl_lvis_l12.py'

model = dict(backbone=dict(shift='swl'))

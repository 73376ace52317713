# Table 5b, no global layer, w/ SWL.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_l0_swl.py GPUS
_base_ = './rovit_vitl_lvis_l0.py'

model = dict(backbone=dict(shift='swl'))

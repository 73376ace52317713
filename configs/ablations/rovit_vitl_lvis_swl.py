# Tables 4a, w/SWL, 5a, shifted window, and 5b.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_swl.py GPUS
_base_ = '../rovit_vitl_lvis.py'

model = dict(backbone=dict(shift='swl'))

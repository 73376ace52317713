# Table 5b, all layers global, w/ SWL: the same network as
# rovit_vitl_lvis_global.py, as no layer has a window to shift.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_l24_swl.py GPUS
_base_ = './rovit_vitl_lvis_swl.py'

model = dict(backbone=dict(global_layers='all'))

# Table 5a, Swin style: every other windowed layer shifted.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_swin.py GPUS
_base_ = '../rovit_vitl_lvis.py'

model = dict(backbone=dict(shift='swin'))

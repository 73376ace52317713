# Table 4a, w/REP: from stage 2, plain windows, no FD.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_rep.py GPUS
_base_ = '../dito_vitl_lvis.py'

model = dict(
    backbone=dict(shift=None), teacher=None, roi_head=dict(loss_distill=None)
)

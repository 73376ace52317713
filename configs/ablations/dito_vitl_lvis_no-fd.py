# Tables 4a and 6b, w/REP+SWL: DITO without distillation.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/dito_vitl_lvis_no-fd.py GPUS
_base_ = '../dito_vitl_lvis.py'

model = dict(teacher=None, roi_head=dict(loss_distill=None))

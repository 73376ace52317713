# Transfer test of the baseline, as dito_vitl_lvis_o365.py: trained on
# LVIS-base, tested on Objects365 v1. Not run here.
#
# The paper's row: Table 3, RO-ViT; it does not say from which pretraining.
#
#   tools/dist_test.sh configs/rovit_vitl_lvis_o365.py CHECKPOINT GPUS
#
# CHECKPOINT is that of rovit_vitl_lvis.py; its mask head is not used.
_base_ = './dito_vitl_lvis_o365.py'

model = dict(backbone=dict(shift=None), roi_head=dict(loss_distill=None))

# Transfer test: DITO, ViT-L/16, trained on LVIS-base, tested on Objects365 v1
# with its 365 names (paper, Table 3). Not run here.
#
#   tools/dist_test.sh configs/dito_vitl_lvis_o365.py CHECKPOINT GPUS
#
# CHECKPOINT is that of dito_vitl_lvis.py; its mask head is not used. None of
# the names was trained on with boxes of Objects365, but many are classes of
# LVIS-base. Which exponent of eq. 2 they get the paper does not say; here all
# count as base classes (0.3). The release's data path would give 0.65 to all:
# --cfg-options model.roi_head.ensemble.alpha=0.65
_base_ = [
    './_base_/models/dito_vitl.py',
    './_base_/datasets/objects365_ov_detection.py',
    './_base_/schedules/dito_lvis_37k.py',
    './_base_/default_runtime.py',
]

model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))

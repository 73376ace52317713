# DITO on LVIS from CLIP's public ViT-B/16, after stage 2 of
# pretrain/rep_vitb16_openclip.py. No row of the paper. Not run here.
#
#   tools/dist_train.sh configs/dito_vitb_lvis_openclip.py GPUS
#   tools/dist_test.sh configs/dito_vitb_lvis_openclip.py CHECKPOINT GPUS
#
# The batch is that of dito_vitb_lvis.py, on any number of GPUs.
_base_ = [
    './_base_/models/dito_vitb_openclip.py',
    './_base_/datasets/lvis_ov_instance.py',
    './_base_/schedules/dito_lvis_37k.py',
    './_base_/default_runtime.py',
]

# Result of stage 2; its backbone is also the teacher.
load_from = 'work_dirs/rep_vitb16_openclip/iter_30000.pth'

model = dict(teacher=dict(checkpoint=load_from))

train_dataloader = dict(batch_size=8)

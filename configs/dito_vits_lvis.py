# DITO, ViT-S/16, trained on LVIS-base, tested on all of LVIS v1.
#
# The paper's row: Table 1, LAION-2B (docs/model_zoo.md). Not run here: the
# public pretrained weights are missing, see README.md.
#
#   tools/dist_train.sh configs/dito_vits_lvis.py GPUS
#   tools/dist_test.sh configs/dito_vits_lvis.py CHECKPOINT GPUS
#
# A step has the 128 images of the schedule on any number of GPUs that divides
# them; each takes 16 at a time (docs/training.md).
_base_ = [
    './_base_/models/dito_vits.py',
    './_base_/datasets/lvis_ov_instance.py',
    './_base_/schedules/dito_lvis_37k.py',
    './_base_/default_runtime.py',
]

# Result of stage 2, configs/pretrain/rep_vits16_laion2b.py. Its backbone
# is also the frozen teacher of the distillation (paper 3.4).
load_from = 'work_dirs/rep_vits16_laion2b/iter_30000.pth'

model = dict(teacher=dict(checkpoint=load_from))

train_dataloader = dict(batch_size=16)

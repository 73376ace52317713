# DITO, ViT-L/16, trained on the 48 base classes of COCO, tested on 48 + 17.
#
# The paper's row: Table 2, LAION-2B (docs/model_zoo.md). Not run here: the
# public pretrained weights are missing, see README.md.
#
#   tools/dist_train.sh configs/dito_vitl_coco.py GPUS
#   tools/dist_test.sh configs/dito_vitl_coco.py CHECKPOINT GPUS
#
# A step has the 128 images of the schedule on any number of GPUs that divides
# them; each takes 4 at a time. The benchmark is on boxes: no mask head.
_base_ = [
    './_base_/models/dito_vitl.py',
    './_base_/datasets/coco_ov_detection.py',
    './_base_/schedules/dito_coco_11k.py',
    './_base_/default_runtime.py',
]

# Result of stage 2, configs/pretrain/rep_vitl16_laion2b.py. Its backbone
# is also the frozen teacher of the distillation (paper 3.4).
load_from = 'work_dirs/rep_vitl16_laion2b/iter_30000.pth'

model = dict(
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
    teacher=dict(checkpoint=load_from),
)

train_dataloader = dict(batch_size=4)

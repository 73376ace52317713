# dito_vitl_coco.py after pretraining on DataComp-1B instead of LAION-2B.
#
# The paper's row: Table 2, DataComp-1B (docs/model_zoo.md). Not run here.
#
#   tools/dist_train.sh configs/dito_vitl_coco_datacomp1b.py GPUS
#   tools/dist_test.sh configs/dito_vitl_coco_datacomp1b.py CHECKPOINT GPUS
_base_ = './dito_vitl_coco.py'

# Result of stage 2, configs/pretrain/rep_vitl16_datacomp1b.py.
load_from = 'work_dirs/rep_vitl16_datacomp1b/iter_30000.pth'

model = dict(teacher=dict(checkpoint=load_from))

# F-VLM's recipe with ViT-L/16 on LVIS: the backbone stays frozen, only
# pyramid and heads are trained; z comes from the backbone as it is. A row of
# its own, the paper has F-VLM with ConvNets only (Table 1). Not run here.
#
#   tools/dist_train.sh configs/fvlm_vitl_lvis.py GPUS
#   tools/dist_test.sh configs/fvlm_vitl_lvis.py CHECKPOINT GPUS
#
# A GPU takes 8 images at a time, since no activation of the backbone is kept;
# the batch of a step is that of the schedule.
_base_ = './rovit_vitl_lvis.py'

# All 24 layers, and what comes before and after them.
model = dict(backbone=dict(frozen_stages=24, with_cp=False))

train_dataloader = dict(batch_size=8)

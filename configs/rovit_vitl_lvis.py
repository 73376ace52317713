# RO-ViT, ViT-L/16, trained on LVIS-base, tested on all of LVIS v1: the paper's
# baseline, from stage 1 alone, plain windows, no distillation.
#
# The paper's rows: Tables 4a, 4b, 5a and 6b, "RO-ViT our repro.".
# Not run here.
#
#   tools/dist_train.sh configs/rovit_vitl_lvis.py GPUS
#   tools/dist_test.sh configs/rovit_vitl_lvis.py CHECKPOINT GPUS
_base_ = './dito_vitl_lvis.py'

# Result of stage 1, configs/pretrain/clip_vitl16_laion2b.py.
load_from = 'work_dirs/clip_vitl16_laion2b/iter_500000.pth'

model = dict(
    backbone=dict(shift=None), teacher=None, roi_head=dict(loss_distill=None)
)

custom_hooks = [
    _base_.custom_hooks[0],
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder'],
        allowed_missing=['neck', 'rpn_head', 'roi_head'],
        allowed_unused=['logit_scale'],
    ),
]

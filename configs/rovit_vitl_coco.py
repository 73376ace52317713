# RO-ViT, ViT-L/16, on COCO: the baseline from stage 1 alone, plain windows,
# no distillation.
#
# The paper's row: Table 2, RO-ViT with LAION-2B (docs/model_zoo.md). Not
# run here.
#
#   tools/dist_train.sh configs/rovit_vitl_coco.py GPUS
#   tools/dist_test.sh configs/rovit_vitl_coco.py CHECKPOINT GPUS
_base_ = './dito_vitl_coco.py'

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

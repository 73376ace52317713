# Stage 2 with ViT-L/16 without the RPN (paper, Table 4b, w/FPN+Head). The
# detector's proposal head starts at random.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rep_vitl16_laion2b_fpn-head.py GPUS
_base_ = '../pretrain/rep_vitl16_laion2b.py'

model = dict(rpn_head=None)

custom_hooks = [
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder', 'logit_scale'],
        allowed_missing=['neck', 'roi_head'],
    ),
]

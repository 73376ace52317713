# Stage 2 with ViT-L/16 and the pyramid alone, each level averaged over the
# whole image (paper, Table 4b, w/FPN). The detector's heads start at random.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rep_vitl16_laion2b_fpn.py GPUS
_base_ = '../pretrain/rep_vitl16_laion2b.py'

model = dict(
    _delete_=True,
    type='PyramidPretrainer',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    text_encoder=_base_.model.text_encoder,
    loss=_base_.model.loss,
)

custom_hooks = [
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder', 'logit_scale'],
        allowed_missing=['neck', 'level_proj'],
    ),
]

# Stage 2 on `symbols` with the pyramid alone, each level averaged over the
# whole image (paper, Table 4b, w/FPN). The detector's heads start at random.
#
#   dito train configs/ablations/rep_symbols_fpn.py
_base_ = '../symbols/rep_symbols.py'

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

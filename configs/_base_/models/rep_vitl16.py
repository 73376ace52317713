# Stage 2 with ViT-L/16: the detector's pyramid and heads on frozen towers
# (paper 3.2). Neck and heads are those of dito_vitl.py, under the same names,
# without what has no part in it (masks, distillation).
_base_ = './dito_vitl.py'

model = dict(
    _delete_=True,
    type='RegionCentricPretrainer',
    data_preprocessor=dict(type='ImageTextPreprocessor'),
    # Full attention, as in stage 1: 16 x 16 tokens need no windows.
    backbone=dict(
        type='DITOViT',
        arch='large',
        patch_size=16,
        img_size=224,
        act='gelu_tanh',
    ),
    neck=_base_.model.neck,
    rpn_head=_base_.model.rpn_head,
    roi_head=dict(
        type='DITORoIHead',
        bbox_roi_extractor=_base_.model.roi_head.bbox_roi_extractor,
        bbox_head=_base_.model.roi_head.bbox_head,
    ),
    text_encoder=_base_.model.text_encoder,
    loss=dict(type='DITOContrastiveLoss'),
    # Boxes of P2, P3, P4, P5 for an image of 256 pixels; sides 0.2 to 0.5 of
    # the image's, height over width 0.5 to 2.
    regions=dict(
        type='RandomRegions',
        num_regions=(400, 200, 100, 50),
        size=(0.2, 0.5),
        ratio=(0.5, 2.0),
    ),
    pooling='max',
    levels='separate',
    rpn_loss_weight=1.0,
)

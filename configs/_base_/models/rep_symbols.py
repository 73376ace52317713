# Stage 2 of the tiny detector: neck and heads are those of dito_symbols.py,
# without what has no part in it (masks, distillation).
_base_ = './dito_symbols.py'

model = dict(
    _delete_=True,
    type='RegionCentricPretrainer',
    data_preprocessor=dict(type='ImageTextPreprocessor'),
    # The detector's windows: the maps that the heads learn from are those
    # that they will see.
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    rpn_head=_base_.model.rpn_head,
    roi_head=dict(
        type='DITORoIHead',
        bbox_roi_extractor=_base_.model.roi_head.bbox_roi_extractor,
        bbox_head=_base_.model.roi_head.bbox_head,
    ),
    text_encoder=_base_.model.text_encoder,
    loss=dict(type='DITOContrastiveLoss'),
    # The paper's sizes and proportions, fewer boxes, at 128 pixels: enough
    # that each level's boxes cover the picture, the object included. With a
    # quarter of them the maximum over two boxes of P5 has nothing to find.
    regions=dict(
        type='RandomRegions', num_regions=(64, 32, 16, 8), reference_size=128
    ),
    pooling='max',
    levels='separate',
    rpn_loss_weight=1.0,
    # Cosines are about 0.1 here. From 0.5 the proposal head would learn this
    # level in its small weights, before anything else: all hidden units end
    # up either off or on at every place.
    objectness_prior=0.1,
)

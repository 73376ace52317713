# The authors' published ViT-L/16 (DataComp-1B, then LVIS-base), tested on
# all of LVIS v1 as their release does it. Evaluation only.
#
#   dito official-to-dito vit-large \
#       work_dirs/official/dito_vitl.safetensors \
#       --embeddings lvis_embed.npy --names lvis_v1_val.json
#   tools/dist_test.sh configs/dito_vitl_official_lvis.py \
#       work_dirs/official/dito_vitl.safetensors GPUS
#
# See docs/official_weights.md. Not run here: the weights are the authors'.
_base_ = [
    './_base_/models/dito_vitl.py',
    './_base_/datasets/lvis_ov_instance.py',
    './_base_/default_runtime.py',
]

# Written by the converter beside the weights.
vocabulary = 'work_dirs/official/dito_vitl_vocabulary.safetensors'
embed_dims = 1024

# One sample a cell; boxes below one cell of the map are not widened.
cell_align = dict(type='DITOCellAlign', sampling_ratio=1)

model = dict(
    # Images in [0, 1], RGB, without mean and deviation. The padding is in
    # the pipeline.
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0]),
    # Both passes without a mask, positions added after the roll.
    backbone=dict(
        act='gelu_tanh',
        window=dict(grid=4),
        global_layers=4,
        shift='swl',
        shift_size=8,
        shift_mask=False,
        pos_embed_after_shift=True,
        with_cp=False,
    ),
    # The frozen backbone has windows in all layers but the last, and the
    # shift too.
    vlm_backbone=dict(global_layers=1),
    rpn_head=dict(box_border='input'),
    roi_head=dict(
        # The release has these two numbers and, in its data path, no list
        # of base classes: it gives 0.65 to all. To repeat that:
        # model.roi_head.ensemble.alpha=0.65.
        ensemble=dict(
            alpha=0.35,
            beta=0.65,
            renormalise=True,
            vlm_background=True,
            objectness_power=3,
        ),
        vlm_roi_scale=0.7,
        vlm_temperature=0.01,
        bbox_roi_extractor=dict(
            roi_layer=dict(_delete_=True, output_size=7, **cell_align)
        ),
        bbox_head=dict(bbox_coder=dict(type='DITOPlusOneBBoxCoder')),
        mask_roi_extractor=dict(
            roi_layer=dict(_delete_=True, output_size=14, **cell_align)
        ),
        # The mean of 14 x 14 samples.
        vlm_roi_extractor=dict(
            roi_layer=dict(
                _delete_=True,
                type='DITOCellAlign',
                output_size=1,
                sampling_ratio=14,
            )
        ),
        loss_distill=None,
    ),
    # Class names are embedded once, by the release's own text model.
    text_encoder=None,
    test_cfg=dict(
        rpn=dict(
            nms_pre=2000,
            nms=None,
            drop_duplicates=True,
            max_per_img=1000,
            min_bbox_size=-1,
        ),
        rcnn=dict(
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=300,
        ),
    ),
)

# TensorFlow's old bilinear resize, padding of CLIP's mean colour, pixels
# rounded to bfloat16; clipping is to the padded square, as in the release.
test_pipeline = [
    dict(type='DITOLoadImageFromFile', backend_args=None),
    dict(type='DITOReleaseResize', size=1024),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        ),
    ),
]

train_dataloader = None
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

custom_hooks = [
    dict(type='DITOVocabularyHook', test=vocabulary),
    # All weights must be in the checkpoint, the frozen backbone's too.
    dict(type='DITOLoadReportHook', required=['backbone', 'vlm_backbone']),
]

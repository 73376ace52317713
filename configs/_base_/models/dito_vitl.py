# DITO with ViT-L/16 at 1024 x 1024 pixels (paper 3.1, 3.3 and 3.4).
#
# Where the paper is silent the numbers are those of the authors' release:
# proposal and RoI sampling, losses, RoI features and NMS. What differs
# between the two is in docs/paper_vs_release.md.
embed_dims = 1024
strides = [4, 8, 16, 32]

# One bilinear sample per cell, at image / stride without half a pixel off.
roi_align = dict(type='RoIAlign', sampling_ratio=1, aligned=False)

model = dict(
    type='DITO',
    # CLIP's statistics of RGB in [0, 255], as in pretraining. Every image is
    # padded to one size, in tests too: the positional embedding covers the
    # padded square. The padding is 0 after this, CLIP's mean colour.
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=1024,
        non_blocking=True,
    ),
    # 64 x 64 tokens in 4 x 4 windows of 16 x 16, four global layers.
    backbone=dict(
        type='DITOViT',
        arch='large',
        patch_size=16,
        img_size=224,
        act='gelu_tanh',
        window=dict(grid=4),
        global_layers=4,
        shift='swl',
        with_cp=True,
    ),
    neck=dict(type='SimpleFPN', in_channels=embed_dims, out_channels=256),
    rpn_head=dict(
        type='DITORPNHead',
        in_channels=256,
        feat_channels=256,
        num_convs=2,
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[8],
            ratios=[1.0],
            strides=strides,
            center_offset=0.5,
        ),
    ),
    roi_head=dict(
        type='DITORoIHead',
        # Equation 2, times objectness as in RO-ViT, whose "finetuning
        # settings" the paper follows.
        ensemble=dict(
            type='GeometricEnsemble', alpha=0.3, beta=0.65, objectness_power=3
        ),
        bbox_roi_extractor=dict(
            type='DITORoIExtractor',
            roi_layer=dict(output_size=7, **roi_align),
            out_channels=256,
            featmap_strides=strides,
            finest_scale=56,
        ),
        bbox_head=dict(
            type='DITOBBoxHead',
            in_channels=256,
            embed_dims=embed_dims,
            background_weight=0.9,
        ),
        mask_roi_extractor=dict(
            type='DITORoIExtractor',
            roi_layer=dict(output_size=14, **roi_align),
            out_channels=256,
            featmap_strides=strides,
            finest_scale=56,
        ),
        mask_head=dict(type='DITOMaskHead', in_channels=256),
        # The mean of 14 x 14 samples, without storing them one by one.
        vlm_roi_extractor=dict(
            type='DITORoIExtractor',
            roi_layer=dict(
                type='RoIAlign',
                output_size=1,
                sampling_ratio=14,
                aligned=False,
            ),
            out_channels=embed_dims,
            featmap_strides=[16],
        ),
        loss_distill=dict(type='DITOCosineDistillLoss', loss_weight=1.0),
    ),
    text_encoder=dict(
        type='DITOTextEncoder', arch='ViT-L-16', embed_dims=embed_dims
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type='DITOMaxIoUAssigner',
                pos_iou_thr=0.3,
                neg_iou_thr=0.1,
                gt_max_assign_all=False,
            ),
            bbox_assigner=dict(
                type='DITOMaxIoUAssigner',
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                gt_max_assign_all=False,
            ),
            sampler=dict(
                type='DITORandomSampler',
                num=256,
                pos_fraction=255 / 256,
                add_gt_as_proposals=False,
            ),
        ),
        rpn_proposal=dict(
            nms_pre=2000,
            nms=dict(type='nms', iou_threshold=0.7),
            max_per_img=1000,
            min_bbox_size=0,
        ),
        rcnn=dict(
            assigner=dict(
                type='DITOMaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                match_low_quality=False,
            ),
            sampler=dict(
                type='DITORandomSampler',
                num=512,
                pos_fraction=0.25,
                add_gt_as_proposals=True,
            ),
            mask_size=28,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=2000,
            nms=None,
            drop_duplicates=True,
            max_per_img=1000,
            min_bbox_size=0,
        ),
        rcnn=dict(
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=300,
            mask_thr_binary=0.5,
        ),
    ),
)

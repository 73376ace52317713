# The tiny detector of `symbols`: dito_vitl.py with the tiny towers. Against
# the paper: patches of 8 pixels, so all strides are halved; windows of 8 x 8
# tokens, the size the tower was pretrained at, as the paper's 16 x 16 windows
# are for its 14 x 14 tokens; no global layer (a row of Table 5b), which this
# tower was not made for; narrower heads and fewer RoIs, for a CPU.
_base_ = ['./dito_vitl.py', './symbols_towers.py']

embed_dims = 128
channels = 48
strides = [2, 4, 8, 16]
# What the tower has learnt; CLIP's of large towers is 0.01.
temperature = 0.0158

model = dict(
    # 192 x 192 pixels or less: every image becomes 24 x 24 tokens.
    data_preprocessor=dict(pad_size_divisor=192),
    backbone=dict(
        _delete_=True,
        **_base_.symbols_backbone,
        window=dict(size=8),
        global_layers=0,
        shift='swl',
    ),
    neck=dict(in_channels=embed_dims, out_channels=channels),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(strides=strides),
        # Boxes start as their anchors. From empty boxes, as in the release,
        # the IoU loss has hardly a gradient for hundreds of iterations.
        init_cfg=dict(
            type='Normal',
            layer='Conv2d',
            std=0.01,
            override=dict(type='Normal', name='rpn_reg', std=0.01, bias=0.5),
        ),
    ),
    roi_head=dict(
        # The proposal head has learnt for a few hundred iterations: its score
        # is left out of the final one. Scores are divided by their sum, which
        # gives these short trainings better boxes (docs/paper_vs_release.md).
        ensemble=dict(objectness_power=0, renormalise=True),
        vlm_temperature=temperature,
        bbox_roi_extractor=dict(
            out_channels=channels, featmap_strides=strides, finest_scale=28
        ),
        bbox_head=dict(
            in_channels=channels,
            embed_dims=embed_dims,
            conv_out_channels=channels,
            num_shared_convs=2,
            fc_out_channels=256,
            temperature=temperature,
        ),
        mask_roi_extractor=dict(
            out_channels=channels, featmap_strides=strides, finest_scale=28
        ),
        mask_head=dict(
            in_channels=channels, conv_out_channels=channels, num_convs=2
        ),
        vlm_roi_extractor=dict(out_channels=embed_dims, featmap_strides=[8]),
    ),
    text_encoder=dict(_delete_=True, **_base_.symbols_text_encoder),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128, pos_fraction=127 / 128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=96)),
    ),
    test_cfg=dict(
        # Annotated boxes are classified by z beside the detection.
        given_boxes='vlm',
        # Without NMS most of so few proposals would be copies of one box: at
        # 0.8 a proposal lies on 72 % of the objects, at 0.6 on 98 %.
        rpn=dict(
            _delete_=True,
            nms_pre=500,
            nms=dict(type='nms', iou_threshold=0.6),
            max_per_img=200,
            min_bbox_size=0,
        ),
        rcnn=dict(max_per_img=100),
    ),
)

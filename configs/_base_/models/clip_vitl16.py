# Stage 1 with ViT-L/16 at 224 x 224: CLIP with global average pooling and
# cropped positional embedding (paper 4, "Baseline reproduction").
embed_dims = 1024

model = dict(
    type='CLIPPretrainer',
    data_preprocessor=dict(type='ImageTextPreprocessor'),
    # Full attention: 14 x 14 tokens need no windows.
    backbone=dict(
        type='DITOViT',
        arch='large',
        patch_size=16,
        img_size=224,
        act='gelu_tanh',
        with_cp=True,
    ),
    # The text tower of open_clip's ViT-L-16, projected to the image tower's
    # width: there is no visual projection.
    text_encoder=dict(
        type='DITOTextEncoder', arch='ViT-L-16', embed_dims=embed_dims
    ),
    loss=dict(type='DITOContrastiveLoss'),
    # RO-ViT: 14 x 14 enlarged to 64 x 64, area 0.1 to 1, aspect 0.5 to 2.
    cpe=dict(up_size=64, scale=(0.1, 1.0), ratio=(0.5, 2.0)),
)

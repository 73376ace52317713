# Stage 2 from a public tower instead of stage 1: SigLIP's ViT-B/16 of
# open_clip, trained on WebLI, which pools by attention. Not run here.
#
#   dito clip-to-dito ViT-B-16-SigLIP \
#       pretrained/vitb16_siglip.safetensors \
#       --weights open_clip_model.safetensors
#   tools/dist_train.sh configs/pretrain/rep_vitb16_siglip.py GPUS
#
# Its texts have a tokenizer of their own: copy tokenizer.json and
# tokenizer_config.json of timm/ViT-B-16-SigLIP to the folder below, and
# pip install "transformers<5".
_base_ = './rep_vitb16_laion2b.py'

model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]
    ),
    backbone=dict(act='gelu', head=dict(pool='attn_pool')),
    text_encoder=dict(
        arch='ViT-B-16-SigLIP',
        context_length=64,
        # How texts are cleaned comes with the converted weights.
        tokenizer=dict(path='pretrained/siglip_tokenizer'),
    ),
    loss=dict(type='DITOSigmoidLoss'),
    logit_bias_init=-10.0,
)

load_from = 'pretrained/vitb16_siglip.safetensors'

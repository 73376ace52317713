# Stage 2 from a public tower instead of stage 1: CLIP's ViT-B/16 of open_clip,
# trained on LAION-2B. Its class token pools the image; regions are compared
# by the values of its last layer (docs/pretrained_towers.md). Not run here.
#
#   dito clip-to-dito ViT-B-16 \
#       pretrained/vitb16_openclip.safetensors \
#       --tag laion2b_s34b_b88k --weights open_clip_pytorch_model.safetensors
#   tools/dist_train.sh configs/pretrain/rep_vitb16_openclip.py GPUS
_base_ = './rep_vitb16_laion2b.py'

# The tower is 768 wide and projects into the 512 dimensions of the texts.
text_dims = 512

model = dict(
    backbone=dict(
        class_token=True,
        pre_norm=True,
        patch_bias=False,
        act='gelu',
        norm_eps=1e-5,
        head=dict(pool='token', out_dims=text_dims),
    ),
    roi_head=dict(bbox_head=dict(embed_dims=text_dims)),
    text_encoder=dict(embed_dims=text_dims),
)

load_from = 'pretrained/vitb16_openclip.safetensors'

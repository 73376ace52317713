# DITO on LVIS from CLIP's public ViT-B/16, after stage 2 of
# pretrain/rep_vitb16_openclip.py. No row of the paper. Not run here.
#
#   tools/dist_train.sh configs/dito_vitb_lvis_openclip.py GPUS
#   tools/dist_test.sh configs/dito_vitb_lvis_openclip.py CHECKPOINT GPUS
#
# The batch is that of dito_vitb_lvis.py, on any number of GPUs.
_base_ = './dito_vitb_lvis.py'

text_dims = 512

# Result of stage 2; its backbone is also the teacher.
load_from = 'work_dirs/rep_vitb16_openclip/iter_30000.pth'

model = dict(
    backbone=dict(
        class_token=True,
        pre_norm=True,
        patch_bias=False,
        act='gelu',
        norm_eps=1e-5,
        # Regions: the mean of the last layer's values, then projected. Other
        # ways by dense='avg'.
        head=dict(pool='token', out_dims=text_dims)),
    roi_head=dict(
        bbox_head=dict(embed_dims=text_dims),
        # Samples at the centres of cells: the whole image is the image.
        vlm_roi_extractor=dict(roi_layer=dict(aligned=True))),
    text_encoder=dict(embed_dims=text_dims),
    teacher=dict(checkpoint=load_from))

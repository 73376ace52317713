# DITO on LVIS from SigLIP's public ViT-B/16, after stage 2 of
# pretrain/rep_vitb16_siglip.py. No row of the paper. Not run here.
#
#   tools/dist_train.sh configs/dito_vitb_lvis_siglip.py GPUS
#   tools/dist_test.sh configs/dito_vitb_lvis_siglip.py CHECKPOINT GPUS
#
# The batch is that of dito_vitb_lvis.py, on any number of GPUs.
_base_ = './dito_vitb_lvis.py'

# Result of stage 2; its backbone is also the teacher.
load_from = 'work_dirs/rep_vitb16_siglip/iter_30000.pth'

model = dict(
    data_preprocessor=dict(
        mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(act='gelu', head=dict(pool='attn_pool')),
    # The tower's attention pools 14 x 14 samples of a region, as it pools
    # the 14 x 14 cells of its own images.
    roi_head=dict(
        vlm_roi_extractor=dict(
            roi_layer=dict(output_size=14, sampling_ratio=1, aligned=True))),
    text_encoder=dict(
        arch='ViT-B-16-SigLIP',
        context_length=64,
        tokenizer=dict(
            path='pretrained/siglip_tokenizer', clean='canonicalize')),
    teacher=dict(checkpoint=load_from))

# Your own boxes at 640 pixels, from SigLIP's public ViT-B/16 without stage 2,
# on one GPU of 24 GB. Not run here but for a step with a random tower.
#
#   dito clip-to-dito path/to/ViT-B-16-SigLIP \
#       pretrained/vitb16_siglip.safetensors
#   dito train configs/dito_vitb_own_siglip.py \
#       --data train.json --images DIR [--val-data val.json]
#
# After a stage 2 (pretrain/rep_vitb16_siglip.py) give its result:
#   --cfg-options load_from=work_dirs/rep_vitb16_siglip/iter_30000.pth
_base_ = [
    './_base_/models/dito_vitb_siglip.py',
    './_base_/datasets/own_detection.py',
    './_base_/schedules/dito_own_5k.py',
    './_base_/tower_runtime.py',
]

load_from = 'pretrained/vitb16_siglip.safetensors'

model = dict(
    # 40 x 40 tokens in 4 x 4 windows of 10 x 10.
    data_preprocessor=dict(pad_size_divisor=640),
    # Boxes only.
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
    teacher=dict(checkpoint=load_from),
)

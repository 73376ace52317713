# Your own boxes and masks at 1,024 pixels, from CLIP's public ViT-B/16 of
# open_clip without stage 2, on one GPU of 24 GB. Not run here but for a step
# with a random tower.
#
#   dito clip-to-dito ViT-B-16 \
#       pretrained/vitb16_openclip.safetensors --tag laion2b_s34b_b88k \
#       --weights open_clip_pytorch_model.safetensors
#   dito train configs/dito_vitb_own_openclip_mask_1024.py \
#       --data train.json --images DIR [--val-data val.json]
#
# After a stage 2 (pretrain/rep_vitb16_openclip_cc3m.py) give its result:
#   --cfg-options load_from=work_dirs/rep_vitb16_openclip_cc3m/iter_30000.pth
_base_ = [
    './_base_/models/dito_vitb_openclip.py',
    './_base_/datasets/own_instance.py',
    './_base_/schedules/dito_own_5k.py',
    './_base_/tower_runtime.py',
]

load_from = 'pretrained/vitb16_openclip.safetensors'

model = dict(teacher=dict(checkpoint=load_from))

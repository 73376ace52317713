# COCO's 48 base and 17 novel classes from CLIP's public ViT-B/16 of open_clip,
# without stage 2, in what one GPU of 24 GB holds. No row of the paper. Not run
# here but for a step with a random tower.
#
#   tools/dist_train.sh configs/dito_vitb_coco_openclip.py GPUS
#
# A step has the 128 images of the schedule; a GPU takes 2 at a time. After a
# stage 2: --cfg-options load_from=work_dirs/rep_vitb16_openclip/iter_30000.pth
_base_ = [
    './_base_/models/dito_vitb_openclip.py',
    './_base_/datasets/coco_ov_detection.py',
    './_base_/schedules/dito_coco_11k.py',
    './_base_/tower_runtime.py',
]

load_from = 'pretrained/vitb16_openclip.safetensors'

model = dict(
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
    teacher=dict(checkpoint=load_from),
)

train_dataloader = dict(batch_size=2)

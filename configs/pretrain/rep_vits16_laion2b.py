# Stage 2: region-centric pretraining with ViT-S/16 on LAION-2B, as
# rep_vitl16_laion2b.py. Not run here.
#
#   tools/dist_train.sh configs/pretrain/rep_vits16_laion2b.py GPUS
_base_ = [
    '../_base_/models/rep_vits16.py',
    '../_base_/datasets/image_text_shards.py',
    '../_base_/schedules/rep_30k.py',
    '../_base_/pretrain_runtime.py',
]

crop_size = 256

# Result of stage 1, clip_vits16_laion2b.py.
load_from = 'work_dirs/clip_vits16_laion2b/iter_500000.pth'

# 750 boxes per image: few are embedded at a time.
train_dataloader = dict(
    batch_size=32, num_workers=8, dataset=dict(size=crop_size)
)

custom_hooks = [
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder', 'logit_scale'],
        allowed_missing=['neck', 'rpn_head', 'roi_head'],
    ),
]

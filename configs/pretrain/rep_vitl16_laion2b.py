# Stage 2: region-centric pretraining with ViT-L/16 on LAION-2B (paper 3.2 and
# 4, "Pretraining setup": 30k iterations x 4k pairs at 256 x 256, towers
# frozen; Table 4: best setting). Not run here.
#
#   tools/dist_train.sh configs/pretrain/rep_vitl16_laion2b.py GPUS
#
# A step has the 4,096 pairs of the schedule on any number of GPUs that divides
# them; each embeds 32 at a time, with exactly the gradient of the whole batch.
_base_ = [
    '../_base_/models/rep_vitl16.py',
    '../_base_/datasets/image_text_shards.py',
    '../_base_/schedules/rep_30k.py',
    '../_base_/pretrain_runtime.py',
]

crop_size = 256

# Result of stage 1, clip_vitl16_laion2b.py.
load_from = 'work_dirs/clip_vitl16_laion2b/iter_500000.pth'

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

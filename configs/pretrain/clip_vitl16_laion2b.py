# Stage 1: CLIP pretraining of ViT-L/16 on LAION-2B (paper 4, "Baseline
# reproduction": 500k iterations x 16k pairs at 224 x 224). Not run here.
#
#   tools/dist_train.sh configs/pretrain/clip_vitl16_laion2b.py GPUS
#   tools/dist_test.sh configs/pretrain/clip_vitl16_laion2b.py CHECKPOINT GPUS
#
# A step has the 16,384 pairs of the schedule on any number of GPUs that
# divides them; each embeds 256 at a time, with exactly the gradient of the
# whole batch.
_base_ = [
    '../_base_/models/clip_vitl16.py',
    '../_base_/datasets/image_text_shards.py',
    '../_base_/datasets/imagenet_test.py',
    '../_base_/schedules/clip_500k.py',
    '../_base_/pretrain_runtime.py',
]

# Stage 1 with ViT-L/16 as clip_vitl16_laion2b.py, with sharded parameters,
# gradients and optimizer state (FSDP2). Its place is larger towers: ViT-L
# with AdamW takes 7 GB a device unsharded. Not run here at this size.
#
#   tools/dist_train.sh configs/pretrain/clip_vitl16_laion2b_fsdp.py GPUS
#
# Checkpoints are those of a run that is not sharded: either can resume the
# other's, with any number of devices.
_base_ = './clip_vitl16_laion2b.py'

runner_type = 'DITOFlexibleRunner'
# One copy of the weights within each machine of 8 devices.
strategy = dict(type='DITOFSDPStrategy', shard_size=8, param_dtype='bfloat16')

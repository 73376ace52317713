# Stage 2 on one GPU: rep_vitb16_openclip.py on a set of CC3M's size. Not run
# here but for a step with a random tower.
#
#   dito pairs2shards ...           # or the shards of img2dataset
#   dito train configs/pretrain/rep_vitb16_openclip_cc3m.py
#
# 512 pairs per step, not 4,096; 30,000 steps: 15 million pairs, five times
# CC3M's 3 million. A GPU embeds 32 at a time, with the exact gradient of the
# 512. The rate follows the square root of the batch, as is usual for AdamW.
_base_ = './rep_vitb16_openclip.py'

train_cfg = dict(total_batch_size=512)
auto_scale_lr = dict(base_batch_size=512)
optim_wrapper = dict(optimizer=dict(lr=3.5e-5))

# Shards of 10,000 pairs; their number must be that of the files.
train_dataloader = dict(
    num_workers=4,
    dataset=dict(shards='data/cc3m/{00000..00331}.tar', num_streams=64),
)

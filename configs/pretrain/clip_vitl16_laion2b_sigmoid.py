# Stage 1 with ViT-L/16 and SigLIP's pairwise sigmoid loss instead of InfoNCE
# (Zhai et al. 2023; the paper has InfoNCE). Not run here.
#
#   tools/dist_train.sh configs/pretrain/clip_vitl16_laion2b_sigmoid.py GPUS
#
# Temperature and bias are learnt, from 10 and -10 as in SigLIP. Stage 2 and
# detection take them for what they are: give stage 2 the same loss and bias,
# and roi_head.vlm_temperature the learnt 1 / exp(logit_scale).
_base_ = './clip_vitl16_laion2b.py'

model = dict(
    loss=dict(_delete_=True, type='DITOSigmoidLoss'),
    logit_scale_init=2.302585092994046,  # ln 10
    logit_bias_init=-10.0,
)

optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(logit_bias=dict(decay_mult=0.0)))
)

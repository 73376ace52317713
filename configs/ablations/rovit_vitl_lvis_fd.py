# Table 6b, RO-ViT + FD.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rovit_vitl_lvis_fd.py GPUS
_base_ = '../rovit_vitl_lvis.py'

model = dict(
    teacher=dict(_delete_=True, checkpoint=_base_.load_from),
    roi_head=dict(
        loss_distill=dict(
            _delete_=True, type='DITOCosineDistillLoss', loss_weight=1.0
        )
    ),
)

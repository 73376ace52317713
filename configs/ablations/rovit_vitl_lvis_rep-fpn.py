# Table 4b, w/FPN: rovit_vitl_lvis_rep.py
# after the stage 2 of rep_vitl16_laion2b_fpn.py. Not run here.
_base_ = './rovit_vitl_lvis_rep.py'

load_from = 'work_dirs/rep_vitl16_laion2b_fpn/iter_30000.pth'

# What this stage 2 did not train starts anew.
custom_hooks = [
    _base_.custom_hooks[0],
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'neck', 'text_encoder'],
        allowed_missing=['rpn_head', 'roi_head'],
        allowed_unused=['logit_scale', 'logit_bias', 'level_proj'],
    ),
]

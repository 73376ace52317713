# Stage 2 on `symbols` without the RPN (paper, Table 4b, w/FPN+Head). The
# detector's proposal head starts at random.
#
#   dito train configs/ablations/rep_symbols_fpn-head.py
_base_ = '../symbols/rep_symbols.py'

model = dict(rpn_head=None)

custom_hooks = [
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder', 'logit_scale'],
        allowed_missing=['neck', 'roi_head'],
    ),
]

# Stage 3 on `symbols` without stage 2: pyramid, proposal and box head start
# from random weights, the towers from stage 1 (paper, Table 4a).
#
#   dito train configs/ablations/dito_symbols_no-rep.py
_base_ = '../symbols/dito_symbols.py'

load_from = '{{ fileDirname }}/../symbols/assets/clip_symbols.safetensors'

model = dict(teacher=dict(checkpoint=load_from))

custom_hooks = [
    _base_.custom_hooks[0],
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder'],
        allowed_missing=['neck', 'rpn_head', 'roi_head'],
        allowed_unused=['logit_scale'],
    ),
]

# default_runtime.py for a training that starts from a tower: pyramid and heads
# start anew, unless load_from has them.
_base_ = './default_runtime.py'

custom_hooks = [
    dict(type='DITOVocabularyHook', templates='openai'),
    dict(
        type='DITOLoadReportHook',
        required=['backbone', 'text_encoder'],
        allowed_missing=['neck', 'rpn_head', 'roi_head'],
        allowed_unused=['logit_scale', 'logit_bias', 'level_proj'],
    ),
]

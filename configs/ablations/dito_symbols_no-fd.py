# Stage 3 on `symbols` without distillation from the frozen backbone: no
# teacher, no projection; VLM scores come from the trained backbone itself
# (paper, Tables 4a and 6b).
#
#   dito train configs/ablations/dito_symbols_no-fd.py
_base_ = '../symbols/dito_symbols.py'

model = dict(teacher=None, roi_head=dict(loss_distill=None))

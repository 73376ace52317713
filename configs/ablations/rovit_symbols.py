# The baseline on `symbols`: RO-ViT's recipe, that is stage 3 from stage 1
# alone, plain windows, no distillation (paper, Tables 4a, 4b, 5a and 6b, first
# rows).
#
#   dito train configs/ablations/rovit_symbols.py
_base_ = './dito_symbols_no-rep.py'

model = dict(
    backbone=dict(shift=None), teacher=None, roi_head=dict(loss_distill=None)
)

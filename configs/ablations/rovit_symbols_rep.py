# Baseline with region-centric pretraining on `symbols`: stage 3 from stage 2,
# plain windows, no distillation (paper, Table 4a, w/REP; Tables 4b and 4c with
# other checkpoints of stage 2).
#
#   dito train configs/ablations/rovit_symbols_rep.py
_base_ = '../symbols/dito_symbols.py'

model = dict(
    backbone=dict(shift=None), teacher=None, roi_head=dict(loss_distill=None)
)

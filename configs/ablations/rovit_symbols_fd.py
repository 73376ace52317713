# Baseline with distillation from the frozen backbone on `symbols` (paper,
# Table 6b, second row).
#
#   dito train configs/ablations/rovit_symbols_fd.py
_base_ = './dito_symbols_no-rep.py'

model = dict(backbone=dict(shift=None))

# Stage 3 on `symbols` without shifted windows, in training and inference
# (paper, Tables 4a and 5a).
#
#   dito train configs/ablations/dito_symbols_no-swl.py
_base_ = '../symbols/dito_symbols.py'

model = dict(backbone=dict(shift=None))

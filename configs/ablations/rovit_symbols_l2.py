# Baseline with 2 global of 4 layers on `symbols` (paper, Table 5b, 12 of 24,
# base).
#
#   dito train configs/ablations/rovit_symbols_l2.py
_base_ = './rovit_symbols.py'

model = dict(backbone=dict(global_layers=2))

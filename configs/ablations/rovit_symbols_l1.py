# Baseline with 1 global of 4 layers on `symbols` (paper, Table 5b, 4 of 24,
# base).
#
#   dito train configs/ablations/rovit_symbols_l1.py
_base_ = './rovit_symbols.py'

model = dict(backbone=dict(global_layers=1))

# Baseline with 1 global of 4 layers and shifted windows on `symbols` (paper,
# Table 5b, 4 of 24, w/ SWL).
#
#   dito train configs/ablations/rovit_symbols_l1_swl.py
_base_ = './rovit_symbols_l1.py'

model = dict(backbone=dict(shift='swl'))

# Baseline with 2 global of 4 layers and shifted windows on `symbols` (paper,
# Table 5b, 12 of 24, w/ SWL).
#
#   dito train configs/ablations/rovit_symbols_l2_swl.py
_base_ = './rovit_symbols_l2.py'

model = dict(backbone=dict(shift='swl'))

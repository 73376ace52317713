# Baseline with fully global attention on `symbols` (paper, Table 5a, first
# row; Table 5b, all layers global).
#
#   dito train configs/ablations/rovit_symbols_global.py
_base_ = './rovit_symbols.py'

model = dict(backbone=dict(window=None))

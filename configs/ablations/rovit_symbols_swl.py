# Baseline with shifted windows on `symbols`, neither stage 2 nor distillation
# (paper, Table 4a, w/SWL; Table 5a, last row).
#
#   dito train configs/ablations/rovit_symbols_swl.py
_base_ = './rovit_symbols.py'

model = dict(backbone=dict(shift='swl'))

# Baseline whose every other layer has shifted windows, as in Swin, on
# `symbols` (paper, Table 5a, third row).
#
#   dito train configs/ablations/rovit_symbols_swin.py
_base_ = './rovit_symbols.py'

model = dict(backbone=dict(shift='swin'))

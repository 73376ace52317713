# Stage 2 on `symbols`: the maximum over the boxes of all levels
# (paper, Table 4c, multi RoIs, max all).
#
#   dito train configs/ablations/rep_symbols_max-all.py
_base_ = '../symbols/rep_symbols.py'

model = dict(levels='all')

# Stage 2 on `symbols`: the mean over the boxes of a level
# (paper, Table 4c, multi RoIs, avg/lvl).
#
#   dito train configs/ablations/rep_symbols_avg.py
_base_ = '../symbols/rep_symbols.py'

model = dict(pooling='mean')

# Stage 2 on `symbols`: whole maps, averaged, through the head
# (paper, Table 4c, global avg/lvl).
#
#   dito train configs/ablations/rep_symbols_global-avg.py
_base_ = '../symbols/rep_symbols.py'

model = dict(pooling='global_mean')

# Stage 2 on `symbols`: whole maps, maximised, through the head
# (paper, Table 4c, global max/lvl).
#
#   dito train configs/ablations/rep_symbols_global-max.py
_base_ = '../symbols/rep_symbols.py'

model = dict(pooling='global_max')

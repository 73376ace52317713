# F-VLM's recipe on `symbols`: the backbone stays frozen, only pyramid and
# heads are trained; z comes from the backbone as it is.
#
#   dito train configs/ablations/fvlm_symbols.py
_base_ = './rovit_symbols.py'

# All four layers, and what comes before and after them.
model = dict(backbone=dict(frozen_stages=4))

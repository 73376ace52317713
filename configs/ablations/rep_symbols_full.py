# Stage 2, the paper's best row: pyramid, head and RPN, boxes maxed per level
# (paper, Tables 4b and 4c). The same as its base, by a name of its own.
#
#   python tools/train.py configs/ablations/rep_symbols_full.py
_base_ = '../symbols/rep_symbols.py'

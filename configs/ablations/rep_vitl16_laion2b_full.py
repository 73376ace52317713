# Stage 2, the paper's best row: pyramid, head and RPN, boxes maxed per level
# (paper, Tables 4b and 4c). The same as its base, by a name of its own.
# Not run here.
#
#   tools/dist_train.sh configs/ablations/rep_vitl16_laion2b_full.py GPUS
_base_ = '../pretrain/rep_vitl16_laion2b.py'

# Table 4c, global max/lvl: rovit_vitl_lvis_rep.py
# after the stage 2 of rep_vitl16_laion2b_global-max.py. Not run here.
_base_ = './rovit_vitl_lvis_rep.py'

load_from = 'work_dirs/rep_vitl16_laion2b_global-max/iter_30000.pth'

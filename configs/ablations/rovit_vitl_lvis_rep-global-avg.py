# Table 4c, global avg/lvl: rovit_vitl_lvis_rep.py
# after the stage 2 of rep_vitl16_laion2b_global-avg.py. Not run here.
_base_ = './rovit_vitl_lvis_rep.py'

load_from = 'work_dirs/rep_vitl16_laion2b_global-avg/iter_30000.pth'

# Table 4c, multi RoIs, max all: rovit_vitl_lvis_rep.py
# after the stage 2 of rep_vitl16_laion2b_max-all.py. Not run here.
_base_ = './rovit_vitl_lvis_rep.py'

load_from = 'work_dirs/rep_vitl16_laion2b_max-all/iter_30000.pth'

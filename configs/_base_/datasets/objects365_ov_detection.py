# Transfer test: trained on LVIS-base, tested on Objects365 v1 with its 365
# names and no training on it (paper, table 3, in ViLD's setup).
#
# Classes come from the annotation file and labels follow their names: train
# and val files of Objects365 list the categories in different orders. Misspelt
# names are repaired (docs/datasets.md). For v2 set version='v2' and the files
# of v2.
#
# data/objects365v1/
#     annotations/objects365_val.json
#     val/
_base_ = './lvis_ov_instance.py'

data_root = 'data/objects365v1/'

# Loader, batch and pipeline of the test are those of LVIS.
val_dataloader = dict(
    dataset=dict(
        type='DITOObjects365Dataset',
        version='v1',
        data_root=data_root,
        ann_file='annotations/objects365_val.json',
        data_prefix=dict(img='val/'),
    )
)
test_dataloader = val_dataloader

# coco/bbox_AP, bbox_AP50 and bbox_AP75 are the columns of table 3.
val_evaluator = dict(
    _delete_=True,
    type='DITOCocoMetric',
    ann_file=data_root + 'annotations/objects365_val.json',
    metric='bbox',
)
test_evaluator = dict(
    _delete_=True,
    type='DITOCocoMetric',
    ann_file=data_root + 'annotations/objects365_val.json',
    metric='bbox',
)

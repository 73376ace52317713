# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The 48 base and 17 novel classes of open-vocabulary COCO.

Introduced by Bansal et al., Zero-Shot Object Detection (ECCV 2018), and used
for every open-vocabulary COCO result, the paper's table 2 among them. The
other 15 of COCO's 80 classes are not used at all.
"""

COCO_BASE_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'train', 'truck', 'boat',
    'bench', 'bird', 'horse', 'sheep', 'bear', 'zebra', 'giraffe', 'backpack',
    'handbag', 'suitcase', 'frisbee', 'skis', 'kite', 'surfboard', 'bottle',
    'fork', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange',
    'broccoli', 'carrot', 'pizza', 'donut', 'chair', 'bed', 'toilet', 'tv',
    'laptop', 'mouse', 'remote', 'microwave', 'oven', 'toaster',
    'refrigerator', 'book', 'clock', 'vase', 'toothbrush',
)  # fmt: skip

COCO_NOVEL_CLASSES = (
    'airplane', 'bus', 'cat', 'dog', 'cow', 'elephant', 'umbrella', 'tie',
    'snowboard', 'skateboard', 'cup', 'knife', 'cake', 'couch', 'keyboard',
    'sink', 'scissors',
)  # fmt: skip

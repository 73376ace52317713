# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""COCO with its usual split into 48 base and 17 novel classes."""

from mmdet.registry import DATASETS

from .ov_dataset import OpenVocabularyDataset

# Introduced by Bansal et al., Zero-Shot Object Detection (ECCV 2018), and used
# for every open-vocabulary COCO result, the paper's table 2 among them. The
# other 15 of COCO's 80 classes are not used at all.
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


@DATASETS.register_module()
class DITOCocoDataset(OpenVocabularyDataset):
    """COCO detection annotations for open-vocabulary training and testing.

    Reads the unchanged ``instances_*2017.json``: ``split='base'`` keeps the
    48 base classes, ``split='all'`` these and the 17 novel ones. Base
    classes have the first labels. With ``classes`` in ``metainfo`` any other
    COCO-style set can be read; then ``base_classes`` or ``novel_classes``
    say which is which, and without them all classes are base.

    Args:
        split (str): 'base' or 'all'. Defaults to 'all'.

    Example:
        >>> dataset = DITOCocoDataset(
        ...     ann_file='annotations/instances_val2017.json',
        ...     data_root='data/coco/',
        ...     data_prefix=dict(img='val2017/'))  # doctest: +SKIP
        >>> len(dataset.metainfo['novel_classes'])  # doctest: +SKIP
        17
    """

    DEFAULT_CLASSES = COCO_BASE_CLASSES + COCO_NOVEL_CLASSES
    DEFAULT_BASE_CLASSES = COCO_BASE_CLASSES
    DEFAULT_NOVEL_CLASSES = COCO_NOVEL_CLASSES

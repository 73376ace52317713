# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""LVIS with the rare classes as novel classes."""

from mmdet.registry import DATASETS

from .ov_dataset import OpenVocabularyDataset


@DATASETS.register_module()
class DITOLVISDataset(OpenVocabularyDataset):
    """LVIS instance annotations (v0.5, v1 or any file in that format).

    Classes of frequency 'r' are the novel ones (paper, section 4.1): they
    are evaluated and never seen in training, so the training set uses
    ``split='base'``. Classes come from the annotation file unless
    ``metainfo`` lists them. Polygon and RLE masks are both read. LVIS v1 has
    no ``file_name``: images are found by ``coco_url``.

    Args:
        split (str): 'base' (866 classes of LVIS v1) or 'all' (1,203).
            Defaults to 'all'.

    Example:
        >>> dataset = DITOLVISDataset(
        ...     ann_file='annotations/lvis_v1_train.json',
        ...     data_root='data/lvis_v1/', data_prefix=dict(img=''),
        ...     split='base')  # doctest: +SKIP
        >>> len(dataset.metainfo['classes'])  # doctest: +SKIP
        866
    """

# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""LVIS with the rare classes as novel classes."""

from typing import Optional
from urllib.parse import urlsplit

from mmdet.registry import DATASETS

from .ov_dataset import OpenVocabularyDataset


@DATASETS.register_module()
class DITOLVISDataset(OpenVocabularyDataset):
    """LVIS instance annotations (v0.5, v1 or any file in that format).

    Classes of frequency 'r' are the novel ones (paper, section 4.1): they
    are evaluated and never seen in training, so the training set uses
    ``split='base'``. Classes come from the annotation file unless
    ``metainfo`` lists them. Polygon and RLE masks are both read.

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

    def image_file_name(self, image: dict) -> Optional[str]:
        """Path of an image below ``data_prefix['img']``.

        LVIS v1 has no ``file_name``: its images are COCO's, spread over
        train2017 and val2017 whatever the split, as ``coco_url`` tells.

        Args:
            image (dict): Entry of the file's ``images``.

        Returns:
            str: ``file_name``, or the path part of ``coco_url``.

        Raises:
            ValueError: If the image has neither.
        """
        if image.get('file_name'):
            return image['file_name']
        if not image.get('coco_url'):
            raise ValueError(
                f'{self.ann_file}: image {image["id"]} has neither '
                'file_name nor coco_url'
            )
        return urlsplit(image['coco_url']).path.lstrip('/')

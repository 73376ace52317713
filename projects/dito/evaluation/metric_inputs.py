# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What metrics of detections have in common: their inputs and outputs."""

from collections import Counter
from typing import Iterator, List, Optional, Sequence, Union

import numpy as np
import torch
from mmdet.structures.mask import encode_mask_results

from ..datasets.annotations import Id, IdNumbers
from .detection_spool import SpoolEntry
from .lvis_detections import LVISDetections


class ClassesFirstMixin:
    """A metric that looks at the classes before images are detected."""

    @property
    def dataset_meta(self) -> Optional[dict]:
        """Meta information of the data set, compared with the file."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: Optional[dict]) -> None:
        self._dataset_meta = meta
        if meta and 'classes' in meta:
            self.meet_classes()

    def meet_classes(self) -> None:
        """Compare the classes with the annotation file.

        Raises:
            ValueError: If they do not fit.
        """
        raise NotImplementedError


def check_predictions(
    image_id: Id, labels: np.ndarray, scores: np.ndarray, classes: int
) -> None:
    """Refuse labels of another vocabulary and scores that are NaN.

    Args:
        image_id (int | str): Image, for the error.
        labels (np.ndarray): Shape (N,), int64.
        scores (np.ndarray): Shape (N,).
        classes (int): Number of classes of the data set.

    Raises:
        ValueError: In one sentence.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f'image {image_id} has labels {labels.min()} to {labels.max()}, '
            f'but the data set has {classes} classes; is the vocabulary of '
            'the model that of the data set?'
        )
    if not np.isfinite(scores).all():
        raise ValueError(f'image {image_id} has scores that are not finite')


def to_numpy(values: Union[torch.Tensor, np.ndarray]) -> np.ndarray:
    """Move a tensor to numpy; half precision becomes float32.

    Args:
        values (Tensor | np.ndarray): Any shape.

    Returns:
        np.ndarray: The same values.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        return values.numpy()
    return np.asarray(values)


def encode_masks(image_id: Id, pred: dict, order: np.ndarray) -> List[dict]:
    """Run lengths of some masks.

    Args:
        image_id (int | str): Image, for the error.
        pred (dict): ``masks``: (N, H, W), or N RLE dicts.
        order (np.ndarray): Positions of those wanted.

    Returns:
        list[dict]: RLE of each.

    Raises:
        ValueError: If there are no masks.
    """
    if 'masks' not in pred:
        raise ValueError(
            f"metric 'segm' needs masks, but image {image_id} has none; "
            "use metric='bbox' or a detector with a mask head"
        )
    masks = pred['masks']
    if isinstance(masks, torch.Tensor):
        masks = masks[torch.from_numpy(order).to(masks.device)]
        return encode_mask_results(masks.detach().cpu().numpy())
    if isinstance(masks, np.ndarray):
        return encode_mask_results(masks[order])
    return [masks[i] for i in order.tolist()]


def refuse_repeated(entries: Sequence[SpoolEntry]) -> None:
    """Refuse images that have results twice.

    Args:
        entries (Sequence[SpoolEntry]): One an image.

    Raises:
        ValueError: If there are more.
    """
    images = Counter(entry.image_id for entry in entries)
    if len(images) < len(entries):
        twice = [i for i, count in images.items() if count > 1]
        raise ValueError(
            f'{len(twice)} images have results twice: {twice[:5]}; does '
            'the sampler repeat images?'
        )


def result_parts(
    detections: LVISDetections,
    iou_type: str,
    images: IdNumbers,
    categories: IdNumbers,
    size: int = 10_000,
) -> Iterator[List[dict]]:
    """Entries of a result file, some at a time, with masks as text.

    Args:
        detections (LVISDetections): The detections.
        iou_type (str): 'bbox' or 'segm'.
        images (IdNumbers): For ids as the annotation file has them.
        categories (IdNumbers): Likewise.
        size (int): How many at a time.

    Yields:
        list[dict]: The next entries.
    """
    for start in range(0, len(detections), size):
        index = np.arange(start, min(start + size, len(detections)))
        part = detections.take(index).to_results(iou_type)
        for result in part:
            result['image_id'] = images.spell(result['image_id'])
            result['category_id'] = categories.spell(result['category_id'])
            mask = result.get('segmentation')
            if mask is not None and isinstance(mask['counts'], bytes):
                counts = mask['counts'].decode()
                result['segmentation'] = dict(mask, counts=counts)
        yield part

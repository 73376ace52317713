# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What metrics of detections have in common: their inputs and outputs."""

from collections import Counter
from typing import Iterator, List, Sequence, Union

import numpy as np
import torch
from mmdet.structures.mask import encode_mask_results

from ..datasets.annotations import Id, IdNumbers
from .detection_spool import SpoolEntry
from .lvis_detections import LVISDetections


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

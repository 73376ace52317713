# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""MMDetection's drawing of detections with bounded memory."""

import math
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BaseInstanceMasks
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData

from dito.models.roi_heads.box_masks import (
    RunLengthMasks,
    crop_rle,
    paste_crop,
)

Crop = Tuple[int, int, np.ndarray]


@VISUALIZERS.register_module()
class DITOLocalVisualizer(DetLocalVisualizer):
    """Draw detections as MMDetection does, with memory for one mask.

    Masks are blended one at a time within their boxes, under boxes and
    labels, in the colour of their class. They may be arrays, run lengths or
    ``box_masks``. Of a large image a reduced picture is drawn; all else of
    the sample stays in pixels of the image.

    Args:
        name (str): Of the instance.
        *args: See :class:`DetLocalVisualizer`.
        max_pixels (int): Of what is drawn. Defaults to 4 megapixels.
        **kwargs: See :class:`DetLocalVisualizer`.
    """

    def __init__(self, name: str = 'visualizer', *args: Any,
                 max_pixels: int = 1 << 22, **kwargs: Any) -> None:
        super().__init__(name, *args, **kwargs)
        self.max_pixels = max_pixels

    def add_datasample(self,
                       name: str,
                       image: np.ndarray,
                       data_sample: Optional[DetDataSample] = None,
                       *args: Any,
                       **kwargs: Any) -> None:
        """Draw a sample.

        Args:
            name (str): Of the picture.
            image (np.ndarray): RGB, (H, W, 3): the image, or a reduced one
                if ``ori_shape`` of the sample is that of the image.
            data_sample (DetDataSample, optional): Annotations and
                detections, in pixels of the image.
            *args: As of :class:`DetLocalVisualizer`.
            **kwargs: Likewise.
        """
        shape = image.shape[:2]
        image = reduce_picture(image, self.max_pixels)
        if data_sample is not None:
            data_sample = _scaled(
                data_sample, data_sample.get('ori_shape', shape)[:2],
                image.shape[:2])
        super().add_datasample(name, image, data_sample, *args, **kwargs)

    def _draw_instances(self, image: np.ndarray, instances: InstanceData,
                        classes: Optional[Sequence[str]],
                        palette: Any) -> np.ndarray:
        """Blend the masks, then draw boxes and labels over them."""
        plain = instances[:]
        for key in ('masks', 'box_masks'):
            plain.pop(key, None)
        return super()._draw_instances(
            self._blend(image, instances, palette), plain, classes, palette)

    def _blend(self, image: np.ndarray, instances: InstanceData,
               palette: Any) -> np.ndarray:
        """A copy of a picture (H, W, 3) with the masks."""
        image = np.array(image)
        labels = instances.labels.tolist()
        colors: List[tuple] = get_palette(
            palette if self.mask_color is None else self.mask_color,
            max(labels, default=0) + 1)
        for label, (x, y, mask) in zip(
                labels, _crops(instances, image.shape[:2]), strict=False):
            part = image[y:y + mask.shape[0], x:x + mask.shape[1]]
            inside = part[mask]
            mixed = inside + self.alpha * (np.array(colors[label]) - inside)
            part[mask] = mixed.round()
            edges, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_CCOMP,
                cv2.CHAIN_APPROX_NONE)
            outline = np.ascontiguousarray(part)
            part[:] = cv2.drawContours(outline, edges, -1, (255, ) * 3, 1)
        return image


def reduce_picture(image: np.ndarray, max_pixels: int) -> np.ndarray:
    """An image (H, W, 3), or a smaller one of it by averages of areas.

    Args:
        image (np.ndarray): uint8 or float.
        max_pixels (int): Limit.

    Returns:
        np.ndarray: (h, w, 3) of the same type.
    """
    factor = math.sqrt(max_pixels / (image.shape[0] * image.shape[1]))
    if factor >= 1:
        return image
    # Rounding must not exceed the limit.
    width = max(int(image.shape[1] * factor), 1)
    height = max(min(int(image.shape[0] * factor), max_pixels // width), 1)
    return cv2.resize(image, (min(width, max_pixels), height),
                      interpolation=cv2.INTER_AREA)


def _scaled(sample: DetDataSample, old: Sequence[int],
            new: Sequence[int]) -> DetDataSample:
    """A sample with its objects in pixels of a picture of another size."""
    scaled = sample.new()
    for key in ('gt_instances', 'pred_instances'):
        if key in sample:
            found = sample.get(key)[:]
            if 'bboxes' in found:
                boxes = get_box_tensor(found.bboxes)
                factors = [n / o for n, o in zip(new, old, strict=True)]
                found.bboxes = boxes * boxes.new_tensor(factors[::-1] * 2)
            scaled.set_field(found, key)
    return scaled


def _crops(instances: InstanceData, shape: Tuple[int, int]) -> Iterator[Crop]:
    """Masks of a picture of a shape: corners x, y and bool pixels."""
    if 'box_masks' in instances:
        for mask, box in zip(
                instances.box_masks, instances.bboxes, strict=True):
            yield paste_crop(mask, box, shape, instances.mask_thr)
        return
    masks: Any = instances.get('masks')
    if masks is None:
        return
    if isinstance(masks, RunLengthMasks):
        full = masks.shape[1:]
        crops: Iterator[Crop] = map(crop_rle, masks)
    else:
        if isinstance(masks, BaseInstanceMasks):
            masks = masks.to_ndarray()
        full = masks.shape[1:]
        crops = (_crop(np.asarray(mask, bool)) for mask in masks)
    for crop in crops:
        yield crop if tuple(full) == tuple(shape) else _resized(
            crop, full, shape)


def _crop(mask: np.ndarray) -> Crop:
    """The part of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, mask[:0, :0]
    x, y = int(columns[0]), int(rows[0])
    return x, y, mask[y:rows[-1] + 1, x:columns[-1] + 1]


def _resized(crop: Crop, old: Sequence[int], new: Sequence[int]) -> Crop:
    """A mask in a picture of another size, to a pixel of it."""
    x, y, mask = crop
    if not mask.size:
        return crop
    down, right = (n / o for n, o in zip(new, old, strict=True))
    x0, y0 = int(x * right), int(y * down)
    x1 = min(math.ceil((x + mask.shape[1]) * right), new[1])
    y1 = min(math.ceil((y + mask.shape[0]) * down), new[0])
    pixels = cv2.resize(mask.astype(np.uint8) * 255, (x1 - x0, y1 - y0),
                        interpolation=cv2.INTER_AREA)
    return x0, y0, pixels > 127

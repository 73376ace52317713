# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""MMDetection's visualiser, with the drawing of reports and figures."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BaseInstanceMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from dito.models.roi_heads.box_masks import (
    RunLengthMasks,
    crop_rle,
    paste_crop,
)

from .drawing import draw_objects, enlarge
from .objects import SHOWN_IOU, Crop, ShownObject, crop_pixels, distinct

# A smaller picture is enlarged to about this side, for its labels.
_DRAWN_SIDE = 600


@VISUALIZERS.register_module()
class DITOLocalVisualizer(DetLocalVisualizer):
    """Draw detections as reports and figures do, with memory for one mask.

    Masks may be arrays, run lengths or ``box_masks``; they are tinted one at
    a time within their boxes. Classes of ``novel_classes`` in
    ``dataset_meta`` have the second colour. Of a large image a reduced
    picture is drawn, a small one is enlarged; all else of the sample stays
    in pixels of the image.

    Args:
        name (str): Of the instance.
        *args: See :class:`DetLocalVisualizer`, whose colours and widths are
            not used.
        max_pixels (int): Of what is drawn. Defaults to 4 megapixels.
        shown_iou (float): Of detections that overlap by more the best alone
            is drawn, whatever their classes; 1 draws all. Defaults to 0.5.
        **kwargs: See :class:`DetLocalVisualizer`.
    """

    def __init__(
        self,
        name: str = 'visualizer',
        *args: Any,
        max_pixels: int = 1 << 22,
        shown_iou: float = SHOWN_IOU,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, *args, **kwargs)
        self.max_pixels = max_pixels
        self.shown_iou = shown_iou

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw a sample; see :class:`DetLocalVisualizer`.

        The image, RGB, (H, W, 3), may be a reduced one if the sample, whose
        objects are in pixels of the whole, has its ``ori_shape``.
        """
        shape = image.shape[:2]
        image = reduce_picture(image, self.max_pixels)
        image = enlarge(image, max(1, round(_DRAWN_SIDE / max(shape))))
        if data_sample is not None:
            old = data_sample.get('ori_shape', shape)[:2]
            data_sample = _scaled(data_sample, old, image.shape[:2])
        super().add_datasample(name, image, data_sample, *args, **kwargs)

    def _draw_instances(
        self,
        image: np.ndarray,
        instances: InstanceData,
        classes: Sequence[str] | None,
        palette: Any,
    ) -> np.ndarray:
        """Draw objects; see :func:`draw_objects`."""
        names = classes or ()
        novel = set((self.dataset_meta or {}).get('novel_classes') or ())
        boxes = get_box_tensor(instances.bboxes).tolist()
        blank = [None] * len(boxes)
        found = 'scores' in instances
        scores = instances.scores.tolist() if found else blank
        labels = instances.labels.tolist()
        crops = list(_crops(instances, image.shape[:2])) or blank
        numbers = instances.get('instances_id')
        tracks = [-1] * len(boxes) if numbers is None else numbers.tolist()
        objects = []
        for box, label, score, crop, track in zip(
            boxes, labels, scores, crops, tracks, strict=True
        ):
            name = names[label] if label < len(names) else f'class {label}'
            objects.append(
                ShownObject(
                    tuple(box), name, name in novel, score, crop, track=track
                )
            )
        if found:
            objects = distinct(objects, self.shown_iou)
        return draw_objects(np.ascontiguousarray(image), objects)


def reduce_picture(image: np.ndarray, max_pixels: int) -> np.ndarray:
    """An image (H, W, 3), or a smaller one of it by averages of areas."""
    factor = math.sqrt(max_pixels / (image.shape[0] * image.shape[1]))
    if factor >= 1:
        return image
    # Rounding must not exceed the limit.
    width = max(int(image.shape[1] * factor), 1)
    height = max(min(int(image.shape[0] * factor), max_pixels // width), 1)
    size = min(width, max_pixels), height
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _scaled(
    sample: DetDataSample, old: Sequence[int], new: Sequence[int]
) -> DetDataSample:
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


def _crops(instances: InstanceData, shape: tuple[int, int]) -> Iterator[Crop]:
    """Masks of a picture of a shape: corners x, y and bool pixels."""
    if 'box_masks' in instances:
        for mask, box in zip(
            instances.box_masks, instances.bboxes, strict=True
        ):
            x, y, pixels = paste_crop(mask, box, shape, instances.mask_thr)
            left, top, pixels = crop_pixels(pixels)
            yield x + left, y + top, pixels
        return
    masks: Any = instances.get('masks')
    if masks is None:
        return
    if isinstance(masks, BaseInstanceMasks):
        masks = masks.to_ndarray()
    full = masks.shape[1:]
    for mask in masks:
        coded = isinstance(masks, RunLengthMasks)
        crop = crop_rle(mask) if coded else crop_pixels(np.asarray(mask, bool))
        same = tuple(full) == tuple(shape)
        yield crop if same else _resized(crop, full, shape)


def _resized(crop: Crop, old: Sequence[int], new: Sequence[int]) -> Crop:
    """A mask in a picture of another size, to a pixel of it."""
    x, y, mask = crop
    if not mask.size:
        return crop
    down, right = (n / o for n, o in zip(new, old, strict=True))
    x0, y0 = int(x * right), int(y * down)
    x1 = min(math.ceil((x + mask.shape[1]) * right), new[1])
    y1 = min(math.ceil((y + mask.shape[0]) * down), new[0])
    pixels = cv2.resize(
        mask.astype(np.uint8) * 255,
        (x1 - x0, y1 - y0),
        interpolation=cv2.INTER_AREA,
    )
    return x0, y0, pixels > 127

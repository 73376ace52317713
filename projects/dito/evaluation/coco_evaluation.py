# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""COCO's protocol, run on some categories at a time."""

import contextlib
import io
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from mmdet.datasets.api_wrappers import COCO, COCOeval

from dito.utils.files import collector_paused

from ..datasets.annotations import Annotations, IdNumbers
from .federated_ap import category_blocks
from .lvis_detections import LVISDetections

# Detections of one category in one image that count, as COCO's protocol has
# it. AP is taken at the last.
MAX_DETS = (1, 10, 100)
BACKENDS = ('faster', 'pycocotools')
# Categories evaluated at a time, in the images that have any of them.
_BLOCK = 100


class COCOGroundTruth:
    """An annotation file with numbers for its ids.

    Args:
        read (Annotations): The file.
        masks (bool): Whether masks must be sound.

    Attributes:
        read (Annotations): The file.
        images (IdNumbers): Numbers of its images.
        categories (IdNumbers): Numbers of its categories.

    Raises:
        ValueError: If the file breaks the rules of annotations.
    """

    def __init__(self, read: Annotations, masks: bool) -> None:
        self.read = read.refuse_faults(masks=masks)
        self.images = IdNumbers('images', read)
        self.categories = IdNumbers('categories', read)

    def objects(self, masks: bool) -> Iterator[dict]:
        """Objects as the evaluation takes them, which writes into them.

        Args:
            masks (bool): Whether with masks.

        Yields:
            dict: With numbers in the place of ids.
        """
        for number, ann in enumerate(self.read.annotations, 1):
            numbered = dict(
                id=number,
                image_id=self.images.find(ann['image_id']),
                category_id=self.categories.find(ann['category_id']),
                bbox=ann['bbox'],
                area=ann['area'],
                iscrowd=ann['iscrowd'],
            )
            if masks:
                numbered['segmentation'] = ann.get('segmentation')
            yield numbered


def evaluate_coco(
    truth: COCOGroundTruth,
    detections: LVISDetections,
    category_ids: Sequence[int],
    iou_type: str,
    iou_thrs: Sequence[float],
    backend: str = 'faster',
) -> Tuple[np.ndarray, List[int]]:
    """Evaluate detections, some categories at a time.

    Args:
        truth (COCOGroundTruth): The ground truth.
        detections (LVISDetections): With the numbers of the ground truth.
        category_ids (Sequence[int]): Numbers of K categories to evaluate.
        iou_type (str): 'bbox' or 'segm'.
        iou_thrs (Sequence[float]): T thresholds of the overlap.
        backend (str): 'faster' or 'pycocotools'.

    Returns:
        tuple: Precision of shape (T, 101 recall levels, K, 1), -1 without
        objects, and the category numbers in order of its third axis.
    """
    ids = sorted(category_ids)
    place = np.searchsorted(ids, detections.category_ids)
    order = np.argsort(place, kind='stable')
    by_category: Dict[int, List[dict]] = {cat: [] for cat in ids}
    for ann in truth.objects(iou_type == 'segm'):
        if ann['category_id'] in by_category:
            by_category[ann['category_id']].append(ann)
    images = {
        number: dict(image, id=number)
        for image in truth.read.images
        for number in [truth.images.find(image['id'])]
    }
    parts = []
    for low, high in category_blocks(place[order], len(ids), _BLOCK):
        rows = slice(*np.searchsorted(place[order], [low, high]))
        # In order of image, which decides between equal scores.
        block = detections.take(np.sort(order[rows])).in_memory()
        objects = [ann for cat in ids[low:high] for ann in by_category[cat]]
        # The evaluation looks at each pair of image and category.
        here = {ann['image_id'] for ann in objects}
        here.update(block.image_ids.tolist())
        dataset = dict(
            images=[images[number] for number in sorted(here)],
            categories=[dict(id=cat) for cat in ids[low:high]],
            annotations=objects,
        )
        with collector_paused():
            parts.append(_precision(
                dataset, block, ids[low:high], iou_type, iou_thrs, backend))
    return np.concatenate(parts, axis=2), ids


def _precision(
    dataset: dict,
    detections: LVISDetections,
    ids: List[int],
    iou_type: str,
    iou_thrs: Sequence[float],
    backend: str,
) -> np.ndarray:
    """Evaluate some categories."""
    if not len(detections):
        return _precision_of_nothing(dataset, ids, len(iou_thrs))
    entries = detections.to_results(iou_type)
    # pycocotools prints what it does, once for each block of categories.
    with contextlib.redirect_stdout(io.StringIO()):
        if backend == 'faster':
            truth = FasterCOCO(dataset)
            run = COCOeval_faster(truth, truth.loadRes(entries), iou_type)
        else:
            truth = COCO()
            truth.dataset = dataset
            truth.createIndex()
            run = COCOeval(truth, truth.loadRes(entries), iou_type)
        _set_params(run, ids, truth.getImgIds(), iou_thrs)
        run.evaluate()
        run.accumulate()
    return np.asarray(run.eval['precision'])[..., -1]


def _set_params(
    run: Any,
    ids: List[int],
    image_ids: List[int],
    iou_thrs: Sequence[float],
) -> None:
    """Say what is evaluated, in both libraries' words."""
    run.params.catIds = ids
    run.params.imgIds = image_ids
    run.params.maxDets = list(MAX_DETS)
    run.params.iouThrs = iou_thrs
    # Objects of all sizes: the figures by size are not used.
    run.params.areaRng = run.params.areaRng[:1]
    run.params.areaRngLbl = run.params.areaRngLbl[:1]


def _precision_of_nothing(
    dataset: dict, ids: Sequence[int], thresholds: int
) -> np.ndarray:
    """Zero for categories with objects and -1 for the others."""
    seen = {
        ann['category_id']
        for ann in dataset['annotations']
        if not ann['iscrowd']
    }
    has = np.array([0.0 if cat in seen else -1.0 for cat in ids])
    shape = (thresholds, 101, len(ids), 1)
    return np.broadcast_to(has[:, None], shape)

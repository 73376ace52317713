# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Three ways to the same LVIS figures.

'federated' is this package's own (:mod:`.federated_ap`), 'faster' is
``faster_coco_eval`` in its LVIS mode and 'lvis' the reference package. The
last two are there to check the first.
"""

import contextlib
import copy
from typing import Callable, Dict, Iterator

import numpy as np

from dito.utils.files import collector_paused

from .federated_ap import evaluate_federated
from .lvis_detections import LVISDetections
from .lvis_ground_truth import LVISGroundTruth
from .precision_recall import PrecisionRecall


def evaluate_lvis(
    gt: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str = 'bbox',
    max_dets: int = 300,
    backend: str = 'federated',
    max_dets_per_class: int | None = None,
) -> PrecisionRecall:
    """Evaluate detections by the LVIS protocol.

    With ``max_dets_per_class`` this is fixed AP (Dave et al., "Evaluating
    Large-Vocabulary Object Detectors: The Devil is in the Details"): no limit
    an image, but one of 10,000 a category over all images, so that categories
    do not compete for a place.

    Args:
        gt (LVISGroundTruth): The ground truth.
        detections (LVISDetections): The detections.
        iou_type (str): 'bbox' or 'segm'. Defaults to 'bbox'.
        max_dets (int): Detections that count in an image, over all
            categories. Defaults to 300, the official number. Not used with
            ``max_dets_per_class``.
        backend (str): 'federated', 'faster' or 'lvis'.
        max_dets_per_class (int, optional): Detections of a category that
            count, over all images, judged or not. None: standard AP.

    Returns:
        PrecisionRecall: Precision and recall by category.

    Raises:
        ValueError: If the type or backend is unknown, or if the detections
            have not the boxes or masks asked for.
    """
    if iou_type not in ('bbox', 'segm'):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', not {iou_type}")
    if backend not in BACKENDS:
        raise ValueError(
            f'backend must be one of {sorted(BACKENDS)}, not {backend!r}'
        )
    if iou_type == 'segm' and len(detections) and detections.masks is None:
        raise ValueError(
            "metric 'segm' needs masks, but the detections have none; use "
            "metric='bbox' or a detector with a mask head"
        )
    if iou_type == 'bbox' and detections.boxes is None:
        raise ValueError("metric 'bbox' needs boxes, but there are only masks")
    if max_dets_per_class is None:
        detections = detections.limit_per_image(max_dets)
    else:
        detections = detections.limit_per_category(max_dets_per_class)
    # Neither of the other packages accepts an empty list of results.
    if not len(detections):
        backend = 'federated'
    if backend != 'federated':
        detections = detections.in_memory()
    with collector_paused():
        return BACKENDS[backend](gt, detections, iou_type)


def _evaluate_faster(
    gt: LVISGroundTruth, detections: LVISDetections, iou_type: str
) -> PrecisionRecall:
    """Evaluate with ``faster_coco_eval``."""
    from faster_coco_eval import COCO, COCOeval_faster

    if gt.ignore.any():
        raise ValueError(
            "backend 'faster' does not know ignored objects, of which "
            f"{gt.source} has {int(gt.ignore.sum())}; use 'federated'"
        )
    detections = detections.take(detections.areas(iou_type) > 0)
    content = gt.content()
    content['annotations'] = [a for a in content['annotations'] if a['area']]
    truth = COCO(content)
    results = truth.loadRes(detections.to_results(iou_type))
    run = COCOeval_faster(truth, results, iou_type, lvis_style=True)
    run.params.maxDets = [max(len(detections), 1)]
    run.evaluate()
    run.accumulate()
    precision = np.asarray(run.eval['precision'])[..., -1]
    recall = np.asarray(run.eval['recall'])[..., -1]
    return PrecisionRecall(precision, recall)


def _evaluate_reference(
    gt: LVISGroundTruth, detections: LVISDetections, iou_type: str
) -> PrecisionRecall:
    """Evaluate with the lvis package."""
    from lvis import LVIS, LVISEval, LVISResults

    truth = LVIS.__new__(LVIS)
    truth.logger = _Quiet()
    truth.dataset = copy.deepcopy(gt.content())
    truth._create_index()
    # Already limited, so not again: its own limit ends with equal scores.
    results = LVISResults(truth, detections.to_results(iou_type), max_dets=-1)
    run = LVISEval(truth, results, iou_type)
    run.logger = _Quiet()
    run.evaluate()
    with _removed_numpy_alias():
        run.accumulate()
    return PrecisionRecall(run.eval['precision'], run.eval['recall'])


class _Quiet:
    """A logger that says nothing: the package logs each step."""

    def info(self, *args) -> None:
        """Drop a message."""

    warn = info


@contextlib.contextmanager
def _removed_numpy_alias() -> Iterator[None]:
    """Give lvis 0.5.3 the alias ``np.float`` that numpy 1.24 removed."""
    if 'float' in vars(np):
        yield
        return
    np.float = float
    try:
        yield
    finally:
        del np.float


BACKENDS: Dict[str, Callable] = {
    'federated': evaluate_federated,
    'faster': _evaluate_faster,
    'lvis': _evaluate_reference,
}

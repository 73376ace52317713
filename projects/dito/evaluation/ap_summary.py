# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Average precision of groups of categories."""

from typing import Dict, List, Optional, Sequence

import numpy as np

from ..datasets.annotations import FREQUENCIES
from .lvis_ground_truth import LVISGroundTruth
from .precision_recall import AREA_NAMES, IOU_THRESHOLDS, PrecisionRecall


def mean_of_valid(values: np.ndarray) -> float:
    """Mean of the entries that are defined.

    Args:
        values (np.ndarray): Precision or recall of any shape; -1 marks
            categories without objects.

    Returns:
        float: The mean, or -1 if nothing is defined.
    """
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def summarize_lvis(
    result: PrecisionRecall,
    frequency: Sequence[str],
    novel: np.ndarray,
    max_dets: Optional[int] = 300,
) -> Dict[str, float]:
    """The figures of the LVIS protocol, and those of base and novel classes.

    Args:
        result (PrecisionRecall): Output of an evaluation.
        frequency (Sequence[str]): 'r', 'c' or 'f' of each category.
        novel (np.ndarray): Whether each category is novel, shape (K,), bool.
        max_dets (int, optional): Detections an image, part of the recall's
            name. None: no such limit (fixed AP), names without it.

    Returns:
        dict[str, float]: AP, AP50, AP75, APs/m/l (object size), APr/c/f
        (frequency), base_/novel_ AP and AP50, AR and ARs/m/l; between 0
        and 1, or -1 for a group without objects.
    """
    precision, recall = result.precision, result.recall
    # In one piece; each of its parts would be gathered from far apart.
    everything = np.ascontiguousarray(precision[..., 0])
    groups = {f: np.array(frequency) == f for f in FREQUENCIES}
    at = {
        int(round(100 * threshold)): i
        for i, threshold in enumerate(IOU_THRESHOLDS)
    }
    summary = dict(
        AP=mean_of_valid(everything),
        AP50=mean_of_valid(everything[at[50]]),
        AP75=mean_of_valid(everything[at[75]]),
    )
    for index, name in enumerate(AREA_NAMES[1:], start=1):
        summary[f'AP{name[0]}'] = mean_of_valid(precision[..., index])
    for letter, members in groups.items():
        summary[f'AP{letter}'] = mean_of_valid(everything[..., members])
    for name, members in (('base', ~novel), ('novel', novel)):
        summary[f'{name}_AP'] = mean_of_valid(everything[..., members])
        summary[f'{name}_AP50'] = mean_of_valid(
            everything[at[50]][..., members]
        )
    for index, name in enumerate(AREA_NAMES):
        letter = name[0] if index else ''
        limit = '' if max_dets is None else f'@{max_dets}'
        summary[f'AR{letter}{limit}'] = mean_of_valid(recall[..., index])
    return summary


def summarize_categories(
    result: PrecisionRecall,
    gt: LVISGroundTruth,
    novel: Optional[np.ndarray] = None,
) -> List[dict]:
    """AP of every category, in order of category id.

    Args:
        result (PrecisionRecall): Output of an evaluation.
        gt (LVISGroundTruth): The ground truth.
        novel (np.ndarray, optional): Whether each category is novel, (K,).

    Returns:
        list[dict]: ``id``, ``name``, ``frequency``, ``novel``, ``objects``
        (their number), ``AP`` and ``AP50``.
    """
    objects = np.bincount(gt.category_index, minlength=gt.num_categories)
    by_category = np.ascontiguousarray(
        np.moveaxis(result.precision[..., 0], 2, 0)
    )
    rows = []
    for k, name in enumerate(gt.names):
        precision = by_category[k]
        rows.append(
            dict(
                id=gt.categories.spell(int(gt.category_ids[k])),
                name=name,
                frequency=gt.frequency[k],
                novel=bool(novel[k]) if novel is not None else False,
                objects=int(objects[k]),
                AP=mean_of_valid(precision),
                AP50=mean_of_valid(precision[0]),
            )
        )
    return rows

# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Results of detection as plain values, and as files."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results


def to_dict(sample: DetDataSample, names: Sequence[str]) -> Dict[str, Any]:
    """Make a json-able dict of the predictions of one image.

    Args:
        sample (DetDataSample): With ``pred_instances``.
        names (Sequence[str]): Class names by label.

    Returns:
        dict: ``labels``, ``names``, ``scores``, ``bboxes`` (x1, y1, x2, y2
        in pixels of the image) and, with masks, ``masks`` as COCO's
        compressed run lengths. One entry a detection, best score first.
    """
    found = sample.pred_instances.cpu()
    found = found[found.scores.argsort(descending=True, stable=True)]
    labels = found.labels.tolist()
    result = dict(
        labels=labels,
        names=[names[i] for i in labels],
        scores=found.scores.tolist(),
        bboxes=found.bboxes.tolist())
    if 'masks' in found:
        result['masks'] = [
            dict(size=list(mask['size']), counts=_text(mask['counts']))
            for mask in encode_mask_results(np.asarray(found.masks))
        ]
    return result


def _text(counts: Any) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def write_json(value: Any, path: Path) -> None:
    """Write a json file that appears whole or not at all."""
    _write(json.dumps(value).encode(), path)


def write_picture(image: np.ndarray, path: Path) -> None:
    """Write an RGB picture (H, W, 3) that appears whole or not at all."""
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        mmcv.imwrite(image[..., ::-1], str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_stems(inputs: Sequence[Any]) -> List[str]:
    """Names for the output files of some images, no two the same.

    Args:
        inputs (Sequence): Paths, or arrays, which are named by number.

    Returns:
        list[str]: The image's name without suffix; what comes again under
        one name gets a number.
    """
    used: Set[str] = set()
    stems = []
    for number, item in enumerate(inputs):
        stem = Path(item).stem if isinstance(item, str) else f'{number:06d}'
        name, more = stem, 1
        while name in used:
            more += 1
            name = f'{stem}_{more}'
        used.add(name)
        stems.append(name)
    return stems

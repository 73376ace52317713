# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What was found in pictures, as values and files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.structures import InstanceData
from torchvision.ops import nms

from dito.models.roi_heads.box_masks import RunLengthMasks, paste_masks
from dito.models.text import Vocabulary
from dito.utils.files import replacing

#: The label of what is found without names.
OBJECT = 'object'


class Query(NamedTuple):
    """What is looked for in a picture.

    Attributes:
        vocabulary (Vocabulary): Classes that are looked for, then negative
            names; None where objects are looked for, whatever they are.
        labels (tuple[str]): What labels stand for; those above are of
            negative names.
        novel (tuple[bool]): Which of these the training did not have.
    """

    vocabulary: Vocabulary | None
    labels: tuple[str, ...]
    novel: tuple[bool, ...]

    @classmethod
    def of(
        cls, classes: Vocabulary, negatives: Vocabulary | None = None
    ) -> 'Query':
        """Query for classes, with others that take part."""
        return cls(
            classes if negatives is None else classes.join(negatives),
            classes.labels,
            tuple(classes.label_novel.tolist()),
        )

    def answers(self, found: InstanceData, score_thr: float) -> torch.Tensor:
        """Which detections are looked for and have the least score."""
        return (found.labels < len(self.labels)) & (found.scores >= score_thr)


#: The query for objects without names.
OBJECTS = Query(None, (OBJECT,), (True,))


@dataclass
class Detections:
    """What was found in an image, or why it could not be read.

    Attributes:
        every (DetDataSample): All detections of the names; ``pred_instances``
            has masks within their boxes only (``box_masks``; those below the
            least score are empty, unless all were asked for), the meta data
            ``classes``, the names by label.
        kept (DetDataSample): Those of the least score or more.
        query (Query): The names that labels stand for.
        negative (int): Detections that went to negative names.
        drawn (ndarray): RGB picture (H, W, 3) if it was wanted.
        error (str): Why the image could not be read, or why a film breaks
            off; else None.
        source (str): Path or address of the image or film; '' of pictures
            in memory.
        frame (int): Place in the film, from 0 on; None of a picture.
        time (float): Seconds since the beginning of the film, or None.
        score_thr (float): Least score of ``kept``.
    """

    every: Any = None
    kept: Any = None
    query: Query = OBJECTS
    negative: int = 0
    drawn: np.ndarray | None = None
    error: str | None = None
    source: str = ''
    frame: int | None = None
    time: float | None = None
    score_thr: float = 0.0

    @classmethod
    def of(
        cls,
        sample: DetDataSample,
        query: Query,
        score_thr: float,
        iou: float | None,
    ) -> 'Detections':
        """Sort the detections of one image.

        Args:
            sample (DetDataSample): As the model gives it.
            query (Query): What was looked for.
            score_thr (float): Least score of ``kept``.
            iou (float, optional): Of the NMS over all names.
        """
        found = sample.pred_instances
        if iou is not None:
            found = found[nms(found.bboxes, found.scores, iou)]
        asked = found[found.labels < len(query.labels)]
        every = sample.new()
        every.set_metainfo(dict(classes=query.labels))
        every.pred_instances = asked
        kept = every.new()
        kept.pred_instances = asked[asked.scores >= score_thr]
        return cls(
            every, kept, query, len(found) - len(asked), score_thr=score_thr
        )

    def number(self, numbers: torch.Tensor) -> None:
        """Note the tracks of all objects, ``instances_id`` as in MMDetection.

        Args:
            numbers (Tensor): int64 (N, ), -1 where there is none.
        """
        found = self.every.pred_instances
        found.instances_id = numbers.to(found.labels.device)
        kept = self.kept.pred_instances
        kept.instances_id = found.instances_id[found.scores >= self.score_thr]

    @cached_property
    def result(self) -> dict[str, Any]:
        """What is kept, as :func:`to_dict` has it; of a frame, which."""
        return self.as_dict(self.kept)

    def as_dict(self, sample: DetDataSample) -> dict[str, Any]:
        """:func:`to_dict` of ``every`` or ``kept``; of a frame, which."""
        found = to_dict(sample, self.names)
        if self.frame is None:
            return found
        return dict(frame=self.frame, time=self.time, **found)

    @property
    def names(self) -> tuple[str, ...]:
        """Names by label."""
        return self.query.labels

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.every.ori_shape[:2]


def prediction(item: Detections, every: bool, as_sample: bool) -> Any:
    """What a call returns of an image.

    Args:
        item (Detections): What was found there.
        every (bool): Whether every detection is wanted.
        as_sample (bool): Whether a data sample is wanted.

    Returns:
        dict | DetDataSample: None where it could not be read.
    """
    if item.error is not None:
        return None
    if as_sample:
        return with_masks(item.every if every else item.kept)
    return item.as_dict(item.every) if every else item.result


def with_masks(sample: DetDataSample) -> DetDataSample:
    """Paste the masks of a sample: ``masks``, :class:`RunLengthMasks`."""
    found = sample.pred_instances
    if 'box_masks' in found:
        masks = paste_masks(
            found.box_masks, found.bboxes, sample.ori_shape[:2], found.mask_thr
        )
        found = found[:]
        found.pop('box_masks')
        found.masks = masks
        sample = sample.new()
        sample.pred_instances = found
    return sample


def to_dict(sample: DetDataSample, names: Sequence[str]) -> dict[str, Any]:
    """Make a json-able dict of the predictions of one image.

    Args:
        sample (DetDataSample): With ``pred_instances``.
        names (Sequence[str]): Class names by label.

    Returns:
        dict: ``labels``, ``names``, ``scores``, ``bboxes`` (x1, y1, x2, y2
        in pixels of the image); with tracks ``track_ids``, numbers or None;
        and with masks ``masks`` as COCO's compressed run lengths. One entry
        per detection, best score first.
    """
    found = with_masks(sample).pred_instances.cpu()
    found = found[found.scores.argsort(descending=True, stable=True)]
    labels = found.labels.tolist()
    result = dict(
        labels=labels,
        names=[names[i] for i in labels],
        scores=found.scores.tolist(),
        bboxes=found.bboxes.tolist(),
    )
    if 'instances_id' in found:
        result['track_ids'] = [
            number if number >= 0 else None
            for number in found.instances_id.tolist()
        ]
    if 'masks' in found:
        masks = found.masks
        if not isinstance(masks, RunLengthMasks):
            masks = encode_mask_results(np.asarray(masks))
        result['masks'] = [
            dict(size=list(mask['size']), counts=_text(mask['counts']))
            for mask in masks
        ]
    return result


def to_supervision(result: Mapping[str, Any]) -> Any:
    """Make ``supervision.Detections`` of the detections of one image.

    Args:
        result (dict): See :func:`to_dict`.

    Returns:
        supervision.Detections: With ``confidence``, ``class_id``, masks as
        arrays (N, H, W) where there are some, ``tracker_id`` of tracks, -1
        where there is none, and ``data['class_name']``.

    Raises:
        ValueError: If the library is not installed.
    """
    try:
        from supervision import Detections as Supervised
    except ImportError as error:
        raise ValueError(
            'to_supervision needs supervision, which is not installed: pip '
            'install supervision.'
        ) from error
    masks, tracks = result.get('masks'), result.get('track_ids')
    return Supervised(
        xyxy=np.reshape(result['bboxes'], (-1, 4)).astype(np.float32),
        confidence=np.asarray(result['scores'], np.float32),
        class_id=np.asarray(result['labels'], int),
        mask=np.stack([mask_utils.decode(m) for m in masks]).astype(bool)
        if masks
        else None,
        tracker_id=None
        if tracks is None
        else np.asarray([-1 if t is None else t for t in tracks], int),
        data=dict(class_name=np.asarray(result['names'], str)),
    )


def to_transformers(result: Mapping[str, Any]) -> dict[str, Any]:
    """Make what transformers' zero-shot object detectors return.

    Args:
        result (dict): See :func:`to_dict`, of one image.

    Returns:
        dict: As of ``post_process_grounded_object_detection``: ``scores``
        float32 (N,), ``labels`` int64 (N,), ``boxes`` float32 (N, 4) as x1,
        y1, x2, y2 in pixels, and ``text_labels``, N names.
    """
    return dict(
        scores=torch.tensor(result['scores'], dtype=torch.float32),
        labels=torch.tensor(result['labels'], dtype=torch.int64),
        boxes=torch.tensor(result['bboxes'], dtype=torch.float32).view(-1, 4),
        text_labels=list(result['names']),
    )


def _text(counts: Any) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB picture (H, W, 3) that appears whole or not at all."""
    with replacing(path) as unfinished:
        mmcv.imwrite(image[..., ::-1], str(unfinished))


def check_count(value: Any, name: str) -> None:
    """Refuse what is no whole number from 1 on.

    Raises:
        ValueError: If it is not.
    """
    whole = isinstance(value, (int, np.integer)) and _is_number(value)
    if not whole or value < 1:
        raise ValueError(f'{name} is a whole number from 1 on, got {value!r}.')


def check_options(
    score_thr: Any,
    batch_size: Any,
    agnostic_nms: Any,
    on_error: str,
    out_dir: Any,
) -> None:
    """Refuse options of a call that are out of their range.

    Raises:
        ValueError: If one is.
    """
    if not _is_number(score_thr) or not 0 <= score_thr <= 1:
        raise ValueError(
            f'score_thr is a score from 0 to 1, got {score_thr!r}.'
        )
    check_count(batch_size, 'batch_size')
    if agnostic_nms is not None and not (
        _is_number(agnostic_nms) and 0 < agnostic_nms <= 1
    ):
        raise ValueError(
            f'agnostic_nms is an IoU in (0, 1], got {agnostic_nms!r}.'
        )
    if on_error not in ('raise', 'collect'):
        raise ValueError(
            f"on_error is 'raise' or 'collect', got {on_error!r}."
        )
    if not isinstance(out_dir, (str, os.PathLike, type(None))):
        raise ValueError(f'out_dir is the path of a folder, got {out_dir!r}.')


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(
        value, (int, float, np.integer, np.floating)
    )

# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""What the metrics of detections share: options, storage, files, tables."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmdet.structures.mask import encode_mask_results
from mmengine.logging import MMLogger

from dito.utils.files import write_json_list

from ..datasets.annotations import Id
from .detections import LVISDetections, PackedMasks
from .ground_truth import GroundTruth
from .report import (
    ReportMixin,
    render_categories,
    render_extremes,
    render_scores,
)

# Entries of a result file that are made at a time.
_WRITTEN = 10_000


@dataclass(frozen=True)
class ImageDetections:
    """What a metric holds of an image until it is evaluated.

    ``kept`` has any number for the image and what the metric says for the
    categories; ``seen`` counts all, ``lowest`` is their lowest score, or
    infinity; ``truth`` is image and objects, where no file has them.
    """

    image_id: Id
    kept: LVISDetections
    seen: int
    lowest: float
    truth: tuple[dict, list[dict]] | None = None

    @property
    def count(self) -> int:
        """Number of detections that are kept."""
        return len(self.kept)


class DetectionMetricMixin(ReportMixin):
    """A metric of boxes and masks.

    It looks at the classes before images are detected, holds detections
    packed, and writes, shows and publishes what was evaluated. What uses it
    sets ``metrics``, ``ann_file``, ``classwise`` and ``outfile_prefix``.

    Attributes:
        per_category (dict[str, list[dict]]): After an evaluation, by row of
            the table ('bbox', 'segm' ...), the output of
            :func:`.summarize_categories`.
        report (dict): See :class:`.ReportMixin`.
    """

    per_category: dict[str, list[dict]]

    @property
    def dataset_meta(self) -> dict | None:
        """Meta information of the data set, compared with the file."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        self._dataset_meta = meta
        if meta and 'classes' in meta:
            self.meet_classes()

    def meet_classes(self) -> None:
        """Raise ValueError if the classes are not the annotation file's."""
        raise NotImplementedError

    def _load(
        self,
        entries: Sequence[ImageDetections],
        gt: GroundTruth,
        category_ids: np.ndarray,
    ) -> LVISDetections:
        """Join the detections of images, each of which may be there once."""
        images = Counter(entry.image_id for entry in entries)
        if len(images) < len(entries):
            twice = [i for i, count in images.items() if count > 1]
            raise ValueError(
                f'{len(twice)} images have results twice: {twice[:5]}; does '
                'the sampler repeat images?'
            )
        joined = LVISDetections.join([entry.kept for entry in entries])
        numbers = [gt.images.find(entry.image_id) for entry in entries]
        return replace(
            joined,
            image_ids=np.repeat(
                np.array(numbers, np.int64), [e.count for e in entries]
            ),
            category_ids=category_ids[joined.category_ids],
        )

    def _write_results(
        self, detections: LVISDetections, gt: GroundTruth
    ) -> None:
        """Write ``PREFIX.bbox.json`` and ``PREFIX.segm.json``."""
        for kind in self.metrics:
            write_json_list(
                f'{self.outfile_prefix}.{kind}.json',
                _result_parts(detections, kind, gt),
            )

    def _describe(
        self,
        entries: Sequence[ImageDetections],
        gt: GroundTruth,
        novel: int,
        **own: str,
    ) -> dict[str, Any]:
        """The protocol; ``own`` has ``benchmark``, ``AP`` and ``max_dets``."""
        lowest = min((e.lowest for e in entries), default=np.inf)
        kinds = dict(bbox='boxes', segm='masks')
        parts = self.with_run(
            dict(
                benchmark=own['benchmark'],
                split=os.path.basename(
                    self.ann_file or 'objects of the samples'
                ),
                images=f'{len(entries)} of {gt.num_images}',
                classes=f'{len(self.dataset_meta["classes"])} ({novel} novel)',
                overlap=' and '.join(kinds[kind] for kind in self.metrics),
                AP=own['AP'],
                max_dets=own['max_dets'],
                most_dets_of_an_image=max(
                    (e.seen for e in entries), default=0
                ),
                lowest_score=float(lowest) if np.isfinite(lowest) else 'none',
                backend='faster-coco-eval',
            )
        )
        if len(entries) < gt.num_images:
            parts['note'] = 'images without results count as empty'
        return parts

    def _show(
        self,
        title: str,
        protocol: dict[str, Any],
        scores: dict[str, dict[str, float]],
        shown: Sequence[str],
        figures: dict[str, float],
    ) -> None:
        """Log the tables, and publish protocol, scores by row and figures."""
        logger: MMLogger = MMLogger.get_current_instance()
        for row in scores if self.classwise else ():
            logger.info(
                render_categories(f'{title}, {row}', self.per_category[row])
            )
        first = next(iter(scores))
        extremes = render_extremes(
            f'{title}, {first}', self.per_category[first]
        )
        if extremes:
            logger.info(extremes)
        table = render_scores(title, scores, shown)
        self.publish(title, protocol, figures, table, self.per_category)


def check_options(
    metric: str | Sequence[str],
    backend: str | None,
    backends: Sequence[str],
    spool_dir: str | None,
) -> list[str]:
    """'bbox' and/or 'segm'; ValueError for options without meaning."""
    kinds = [metric] if isinstance(metric, str) else list(metric)
    if not kinds or set(kinds) - {'bbox', 'segm'}:
        raise ValueError(
            f"metric must be 'bbox' and/or 'segm', but got {metric!r}"
        )
    if backend is not None and backend not in backends:
        raise ValueError(
            f'backend must be one of {sorted(backends)}, not {backend!r} '
            '(all mean the same; leave it out)'
        )
    if spool_dir is not None:
        raise ValueError(
            f'spool_dir={spool_dir!r} has no meaning: detections are held '
            'packed in memory, not in files; leave it out'
        )
    return kinds


def pack_predictions(
    image_id: Id,
    pred: dict,
    category: np.ndarray,
    order: np.ndarray,
    masked: np.ndarray | None = None,
    truth: tuple | None = None,
) -> ImageDetections:
    """Pack the M detections that ``order`` keeps, of N.

    ``pred`` has ``bboxes`` (N, 4), ``scores`` (N,) and, where masks are
    wanted, ``masks``: (N, H, W) or N RLE dicts. ``category`` is of each, (N,);
    ``masked`` says which keep their mask, bool (M,); ``truth`` is image and
    objects, where no file has them. ValueError if there are no masks.
    """
    scores = to_numpy(pred['scores']).astype(np.float64)
    boxes = to_numpy(pred['bboxes'])[order].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    masks = None
    if masked is not None:
        encoded = iter(_encode_masks(image_id, pred, order[masked]))
        masks = PackedMasks.pack(
            [next(encoded) if has else None for has in masked]
        )
    kept = LVISDetections(
        np.zeros(len(order), np.int64),
        category[order],
        scores[order],
        boxes,
        masks,
    )
    lowest = float(scores.min(initial=np.inf))
    return ImageDetections(image_id, kept, len(scores), lowest, truth)


def read_labels(image_id: Id, pred: dict, classes: int) -> np.ndarray:
    """Labels, (N,), int64; ValueError for others' or NaN for a score."""
    labels = to_numpy(pred['labels']).astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f'image {image_id} has labels {labels.min()} to {labels.max()}, '
            f'but the data set has {classes} classes; is the vocabulary of '
            'the model that of the data set?'
        )
    if not np.isfinite(to_numpy(pred['scores'])).all():
        raise ValueError(f'image {image_id} has scores that are not finite')
    return labels


def to_numpy(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Move a tensor to numpy; half precision becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        return values.numpy()
    return np.asarray(values)


def _encode_masks(image_id: Id, pred: dict, order: np.ndarray) -> list[dict]:
    """Run lengths of some masks."""
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


def _result_parts(
    detections: LVISDetections, iou_type: str, gt: GroundTruth
) -> Iterator[list[dict]]:
    """Entries of a result file, some at a time, with masks as text."""
    for start in range(0, len(detections), _WRITTEN):
        index = np.arange(start, min(start + _WRITTEN, len(detections)))
        part = detections.take(index).to_results(iou_type)
        for result in part:
            result['image_id'] = gt.images.spell(result['image_id'])
            result['category_id'] = gt.categories.spell(result['category_id'])
            if iou_type == 'segm':
                mask = result['segmentation']
                mask['counts'] = mask['counts'].decode()
        yield part

# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The protocol of an evaluation, and the form of its masks."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from mmengine.structures import BaseDataElement

from dito.models.detectors import DITORegionClassifier
from dito.models.text import Vocabulary
from dito.models.utils import unwrap_model
from dito.utils.files import sha256_of, write_json

from ..telemetry import only_reports

EvaluatedSet = tuple[Any, list[BaseMetric]]

_OF_VLM = ('vlm_roi_scale', 'vlm_temperature')


@HOOKS.register_module()
@only_reports
class DITOEvaluationReportHook(Hook):
    """Give metrics the facts of the run, and write reports beside the log.

    Before an evaluation each metric that has ``note_run`` gets the config,
    the checkpoint and its sha256, the exponents of the ensemble, the score
    floor, how many detections are kept, vocabulary and templates, and the
    name of the set; it shows them with its figures. Afterwards the reports of
    all metrics are written to ``evaluation.json`` in the run's log folder,
    or, in a training, to ``evaluation_iter_N.json``.

    Args:
        hash_checkpoint (bool): Whether to hash the file of weights; a GB
            takes about a second. Defaults to True.
    """

    priority = 'LOW'  # after the vocabulary is set

    def __init__(self, hash_checkpoint: bool = True) -> None:
        self.hash_checkpoint = hash_checkpoint

    def before_val_epoch(self, runner: Any) -> None:
        """Tell the metrics of the validation."""
        self._tell(runner, _sets(runner.val_loop))

    def before_test_epoch(self, runner: Any) -> None:
        """Tell the metrics of the test."""
        self._tell(runner, _sets(runner.test_loop))

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the report of a validation."""
        name = 'evaluation.json'
        if _is_training(runner):
            name = f'evaluation_iter_{runner.iter}.json'
        self._write(runner, _sets(runner.val_loop), metrics, name)

    def after_test_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the report of a test."""
        self._write(
            runner, _sets(runner.test_loop), metrics, 'evaluation.json'
        )

    def _tell(self, runner: Any, sets: Sequence[EvaluatedSet]) -> None:
        """Hand the facts to the metrics that want them."""
        for dataset, metrics in sets:
            for text in _other_files(dataset, metrics):
                runner.logger.warning(text)
        if not is_main_process() or not any(
            hasattr(m, 'note_run') for _, metrics in sets for m in metrics
        ):
            return
        facts = {**self._of_weights(runner), **model_facts(runner.model)}
        names = _vocabulary_facts(runner.model)
        for number, (dataset, metrics) in enumerate(sets):
            # Further sets have names of their own, which are set later.
            own = dict(
                facts,
                split=_name_of_set(dataset),
                input_size=input_size(dataset),
                **({} if number else names),
            )
            for metric in metrics:
                if hasattr(metric, 'note_run'):
                    metric.note_run(own)

    def _of_weights(self, runner: Any) -> dict[str, Any]:
        """Config and checkpoint."""
        config = getattr(runner.cfg, 'filename', None)
        facts: dict[str, Any] = dict(
            config=os.path.basename(config) if config else None
        )
        if _is_training(runner):
            facts['checkpoint'] = f'iteration {runner.iter} of a training'
            return facts
        path = runner._load_from
        facts['checkpoint'] = os.path.basename(path) if path else None
        if self.hash_checkpoint and path and os.path.isfile(path):
            facts['checkpoint_sha256'] = sha256_of(path)
        return facts

    def _write(
        self,
        runner: Any,
        sets: Sequence[EvaluatedSet],
        figures: dict[str, float] | None,
        name: str,
    ) -> None:
        """Write what the metrics report."""
        if not is_main_process():
            return
        results = []
        for metric in (m for _, metrics in sets for m in metrics):
            report = getattr(metric, 'report', None)
            if report is None:
                start = f'{metric.prefix}/'
                report = dict(
                    figures={
                        key[len(start) :]: value
                        for key, value in (figures or {}).items()
                        if key.startswith(start)
                    }
                )
            results.append(
                dict(
                    metric=type(metric).__name__,
                    prefix=metric.prefix,
                    **report,
                )
            )
        path = os.path.join(runner.log_dir, name)
        write_json(
            path, dict(format='dito-evaluation-1', results=results), indent=1
        )
        runner.logger.info(f'Protocol, figures and classes: {path}')


def _sets(loop: Any) -> list[EvaluatedSet]:
    """Data sets of a loop with their metrics, further ones included."""
    return [
        (part.dataloader.dataset, part.evaluator.metrics)
        for part in (loop, *getattr(loop, 'extra', ()))
    ]


def _name_of_set(dataset: Any) -> str | None:
    """File or folder that a data set was read from, without its path."""
    for key in ('ann_file', 'shards', 'root', 'data_root'):
        source = getattr(dataset, key, None)
        if isinstance(source, (list, tuple)):
            source = ', '.join(os.path.basename(str(s)) for s in source)
        if source:
            return os.path.basename(str(source).rstrip('/'))
    for key in ('dataset', 'images'):
        if getattr(dataset, key, None) is not None:
            return _name_of_set(getattr(dataset, key))
    return None


def _other_files(dataset: Any, metrics: Sequence[BaseMetric]) -> list[str]:
    """Warn of metrics that judge by another file: AP would be too low."""
    own = getattr(dataset, 'ann_file', None)
    if not own:
        return []
    return [
        f'{type(metric).__name__} judges by {metric.ann_file}, but the images '
        f'are those of {own}: set ann_file of both the data set and the '
        'metric.'
        for metric in metrics
        if getattr(metric, 'ann_file', None)
        and os.path.realpath(metric.ann_file) != os.path.realpath(own)
    ]


def _is_training(runner: Any) -> bool:
    # Before it is built the loop is a dict, and asking would build it.
    return isinstance(runner._train_loop, BaseLoop)


def vocabulary_sha256(vocabulary: Vocabulary) -> str:
    """Hash what a vocabulary decides: names, groups and embeddings."""
    digest = hashlib.sha256(json.dumps(vocabulary.names).encode())
    for tensor in (
        vocabulary.novel,
        vocabulary.embeddings,
        vocabulary.background,
    ):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_facts(model: Any) -> dict[str, Any]:
    """What of a detector, as far as it has it, json can say of a test."""
    model = unwrap_model(model)
    head = getattr(model, 'roi_head', None)
    facts = {
        name: getattr(head, name) for name in _OF_VLM if hasattr(head, name)
    }
    ensemble = getattr(head, 'ensemble', None)
    if ensemble is not None:
        facts['ensemble'] = type(ensemble).__name__
        facts.update(getattr(ensemble, 'facts', dict)())
    if getattr(head, 'vlm_roi_extractor', True) is None:
        facts = dict(ensemble='off: detection scores alone')
    if isinstance(model, DITORegionClassifier):
        # Figures of detection then belong to boxes that were not detected.
        unused = dict(
            vlm=('ensemble', 'alpha', 'beta', 'renormalise'), det=tuple(facts)
        )
        return dict(
            boxes='annotated ones, with every class; nothing is detected',
            score=model.score,
            max_per_img=model.max_per_img,
            **{
                k: v
                for k, v in facts.items()
                if k not in (*unused.get(model.score, ()), 'objectness_power')
            },
        )
    rcnn = (getattr(model, 'test_cfg', None) or {}).get('rcnn') or {}
    facts.update(
        proposals=_proposals(model),
        score_thr=rcnn.get('score_thr'),
        nms_iou=(rcnn.get('nms') or {}).get('iou_threshold'),
        max_per_img=rcnn.get('max_per_img'),
    )
    return facts


def _proposals(model: Any) -> str | None:
    """How many proposals are tested, and how they are thinned out."""
    rpn = (getattr(model, 'test_cfg', None) or {}).get('rpn')
    if not rpn:
        return None
    iou = (rpn.get('nms') or {}).get('iou_threshold')
    thinned = 'no NMS' if iou is None else f'NMS at {iou}'
    if rpn.get('drop_duplicates'):
        thinned += ', no duplicates'
    return f'{rpn.get("max_per_img")} per image, {thinned}'


def input_size(dataset: Any) -> str | None:
    """Size a pipeline brings images to: '1024 x 1024, ratio kept'."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    for step in steps:
        scale = getattr(step, 'scale', None)
        if 'Resize' in type(step).__name__ and isinstance(
            scale, (tuple, list)
        ):
            kept = getattr(step, 'keep_ratio', False)
            return f'{scale[0]} x {scale[1]}' + (
                ', ratio kept' if kept else ''
            )
    return None


def _vocabulary_facts(model: Any) -> dict[str, Any]:
    """Names that a model tells apart, and what has embedded them."""
    model = unwrap_model(model)
    vocabulary = getattr(model, 'vocabulary', None)
    if vocabulary is None:
        return {}
    return dict(
        vocabulary=f'{len(vocabulary)} names, '
        f'{int(vocabulary.novel.sum())} novel',
        vocabulary_sha256=vocabulary_sha256(vocabulary),
        text_tower=vocabulary.fingerprint,
        templates=list(vocabulary.templates),
        background=vocabulary.background_name,
    )


@HOOKS.register_module()
class DITORunLengthMasksHook(Hook):
    """Ask for the masks of an evaluation as run lengths.

    Detectors give dense masks unless they are asked, as MMDetection's do,
    since its clients read them: an array of the size of the image for each
    of 300 detections. Metrics want run lengths, which are made one mask at a
    time (:class:`.RunLengthMasks`).
    """

    def _before_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        mode: str = 'train',
    ) -> None:
        """Ask in the samples of a validation or test."""
        samples: Any = ()
        if mode != 'train' and isinstance(data_batch, dict):
            samples = data_batch.get('data_samples') or ()
        for sample in samples:
            # Test-time augmentation has a list for each image.
            if isinstance(sample, BaseDataElement):
                sample.set_metainfo(dict(mask_form='rle'))

# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Say under which protocol the figures of an evaluation were measured."""

import hashlib
import json
import os
from typing import Any, Dict, List, Optional

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop

from dito.evaluation.files import sha256_of, write_json
from dito.models.text import Vocabulary

_OF_THE_ENSEMBLE = ('alpha', 'beta', 'renormalise', 'objectness_power',
                    'vlm_background', 'vlm_roi_scale', 'vlm_temperature')


@HOOKS.register_module()
class DITOEvaluationReportHook(Hook):
    """Give metrics the facts of the run, and write reports beside the log.

    Before an evaluation each metric that has ``note_run`` is told the config,
    the checkpoint and its sha256, the exponents of the ensemble, the score
    floor, how many detections are kept, and vocabulary and templates; it
    shows them with its figures. Afterwards the reports of all metrics are
    written to ``evaluation.json`` in the run's log folder, or, in a training,
    to ``evaluation_iter_N.json``.

    Args:
        hash_checkpoint (bool): Whether to hash the file of weights; a GB
            takes about a second. Defaults to True.
    """

    priority = 'LOW'  # after the vocabulary is set

    def __init__(self, hash_checkpoint: bool = True) -> None:
        self.hash_checkpoint = hash_checkpoint

    def before_val_epoch(self, runner: Any) -> None:
        """Tell the metrics of the validation."""
        self._tell(runner, runner.val_evaluator.metrics)

    def before_test_epoch(self, runner: Any) -> None:
        """Tell the metrics of the test."""
        self._tell(runner, runner.test_evaluator.metrics)

    def after_val_epoch(self,
                        runner: Any,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        """Write the report of a validation."""
        name = 'evaluation.json'
        if _is_training(runner):
            name = f'evaluation_iter_{runner.iter}.json'
        self._write(runner, runner.val_evaluator.metrics, metrics, name)

    def after_test_epoch(self,
                         runner: Any,
                         metrics: Optional[Dict[str, float]] = None) -> None:
        """Write the report of a test."""
        self._write(runner, runner.test_evaluator.metrics, metrics,
                    'evaluation.json')

    def _tell(self, runner: Any, metrics: List[BaseMetric]) -> None:
        """Hand the facts to the metrics that want them."""
        wanting = [m for m in metrics if hasattr(m, 'note_run')]
        if not wanting or not is_main_process():
            return
        facts = {**self._of_weights(runner), **model_facts(runner.model)}
        for metric in wanting:
            metric.note_run(facts)

    def _of_weights(self, runner: Any) -> Dict[str, Any]:
        """Config and checkpoint."""
        config = getattr(runner.cfg, 'filename', None)
        facts: Dict[str, Any] = dict(
            config=os.path.basename(config) if config else None)
        if _is_training(runner):
            facts['checkpoint'] = f'iteration {runner.iter} of a training'
            return facts
        path = runner._load_from
        facts['checkpoint'] = os.path.basename(path) if path else None
        if self.hash_checkpoint and path and os.path.isfile(path):
            facts['checkpoint_sha256'] = sha256_of(path)
        return facts

    def _write(self, runner: Any, metrics: List[BaseMetric],
               figures: Optional[Dict[str, float]], name: str) -> None:
        """Write what the metrics report."""
        if not is_main_process():
            return
        results = []
        for metric in metrics:
            report = getattr(metric, 'report', None)
            if report is None:
                start = f'{metric.prefix}/'
                report = dict(figures={
                    key[len(start):]: value
                    for key, value in (figures or {}).items()
                    if key.startswith(start)
                })
            results.append(
                dict(metric=type(metric).__name__, prefix=metric.prefix,
                     **report))
        path = os.path.join(runner.log_dir, name)
        write_json(path, dict(format='dito-evaluation-1', results=results),
                   indent=1)
        runner.logger.info(f'Protocol, figures and classes: {path}')


def _is_training(runner: Any) -> bool:
    # Before it is built the loop is a dict, and asking would build it.
    return isinstance(runner._train_loop, BaseLoop)


def vocabulary_sha256(vocabulary: Vocabulary) -> str:
    """Hash what a vocabulary decides: names, groups and embeddings.

    Args:
        vocabulary (Vocabulary): Classes in label order.

    Returns:
        str: 64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(vocabulary.names).encode())
    for tensor in (vocabulary.novel, vocabulary.embeddings,
                   vocabulary.background):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_facts(model: Any) -> Dict[str, Any]:
    """What of a detector belongs to the protocol of its evaluation.

    Args:
        model (nn.Module): A detector; what it does not have is left out.

    Returns:
        dict: Values that json can hold.
    """
    model = model.module if is_model_wrapper(model) else model
    head = getattr(model, 'roi_head', None)
    facts = {
        name: getattr(head, name)
        for name in _OF_THE_ENSEMBLE if hasattr(head, name)
    }
    if getattr(head, 'vlm_roi_extractor', True) is None:
        facts = dict(ensemble='off: detection scores alone')
    rcnn = (getattr(model, 'test_cfg', None) or {}).get('rcnn') or {}
    facts.update(
        score_thr=rcnn.get('score_thr'),
        nms_iou=(rcnn.get('nms') or {}).get('iou_threshold'),
        max_per_img=rcnn.get('max_per_img'))
    vocabulary = getattr(model, 'vocabulary', None)
    if vocabulary is not None:
        facts.update(
            vocabulary=f'{len(vocabulary)} names, '
            f'{int(vocabulary.novel.sum())} novel',
            vocabulary_sha256=vocabulary_sha256(vocabulary),
            text_tower=vocabulary.fingerprint,
            templates=list(vocabulary.templates),
            background=vocabulary.background_name)
    return facts

# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checks of all data sets of a config, and of one against another."""

import os.path as osp
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..annotations import Annotations, read_annotations, require_federated
from ..categories import CategoryTable
from ..ov_dataset import reads_masks
from .annotation_checks import check_annotations
from .findings import SetReport, gather
from .image_checks import check_images
from .set_checks import check_classes, expected_images

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# A report, its classes and the paths of its images.
Checked = tuple[SetReport, CategoryTable | None, list[str]]


def check_config(
    cfg: Config,
    max_images: int | None = None,
    workers: int = 1,
    load_vocabulary: Callable[[str], Any] | None = None,
) -> list[SetReport]:
    """Check every detection data set of a config.

    Nothing is trained or loaded as a whole; names are compared, annotations
    looked through and images decoded.

    Args:
        cfg (Config): A config of stage 3, or any of MMDetection.
        max_images (int, optional): Images of each set to decode; None: all.
        workers (int): Threads to decode with. Defaults to 1.
        load_vocabulary (callable, optional): :meth:`Vocabulary.load`, of the
            models, which data sets know nothing of. None: files of
            vocabularies are not looked at.

    Returns:
        list[SetReport]: One a data set; val and test share one if equal.

    Raises:
        ValueError: If there is no detection data set.
    """
    # The two halves of one file need not be read twice.
    read = lru_cache(maxsize=1)(read_annotations)
    checked: list[Checked] = []
    for name, part in _merged_sets(cfg).items():
        masks = part.pop('masks')
        dataset = _build(part)
        report = SetReport(name, dataset.ann_file)
        report.findings += gather('metric_file', _other_files(cfg, report))
        try:
            found = read(dataset.ann_file)
        except (FileNotFoundError, ValueError) as error:
            report.findings += gather('bad_file', [error])
            checked.append((report, None, []))
            continue
        report.findings += check_annotations(found, masks)
        table = check_classes(report, dataset, found)
        _check_form(cfg, report, found)
        images = expected_images(dataset, found.images)
        report.findings += check_images(images, max_images, workers)
        if load_vocabulary is not None:
            _check_vocabulary(report, cfg, table, load_vocabulary)
        checked.append((report, table, [path for path, _, _ in images]))
    _compare(checked)
    return [report for report, _, _ in checked]


def check_files(
    ann_file: str,
    images: str,
    max_images: int | None = None,
    workers: int = 1,
) -> SetReport:
    """Check an annotation file and its folder of images, without a config.

    Args:
        ann_file (str): COCO, LVIS or Objects365 style annotations.
        images (str): Folder that the file names in it are relative to.
        max_images (int, optional): Images to decode; None: all.
        workers (int): Threads to decode with. Defaults to 1.

    Returns:
        SetReport: What was found.
    """
    names = [cat['name'] for cat in read_annotations(ann_file).categories]
    part = dict(
        type='DITOLVISDataset',
        ann_file=osp.abspath(ann_file),
        data_prefix=dict(img=osp.abspath(images)),
        metainfo=dict(classes=tuple(names)),
    )
    loader = dict(test_dataloader=dict(dataset=part))
    (report,) = check_config(Config(loader), max_images, workers)
    report.name = 'data'
    return report


def _inner_sets(part: Any) -> Iterator[dict[str, Any]]:
    """Detection data sets inside wrappers such as ConcatDataset."""
    if not isinstance(part, dict):
        return
    if part.get('ann_file'):
        yield part
    for inner in [part.get('dataset'), *(part.get('datasets') or ())]:
        yield from _inner_sets(inner)


def _merged_sets(cfg: Config) -> dict[str, dict[str, Any]]:
    """Data sets by the place they have in the config, each once."""
    found: dict[str, dict[str, Any]] = {}
    for loader in _LOADERS:
        parts = list(_inner_sets((cfg.get(loader) or {}).get('dataset')))
        for index, part in enumerate(parts):
            name = loader.removesuffix('_dataloader')
            name += f' {index + 1}' if len(parts) > 1 else ''
            masks = _needs_masks(cfg, loader.removesuffix('_dataloader'), part)
            part = dict(part, pipeline=[], lazy_init=True, masks=masks)
            same = [key for key, other in found.items() if other == part]
            if same:
                found[f'{same[0]}, {name}'] = found.pop(same[0])
            else:
                found[name] = part
    if not found:
        raise ValueError(
            f'{cfg.filename or "the config"} has no data set with an '
            'ann_file; only detection sets can be checked'
        )
    return found


def _metrics(cfg: Config, phase: str) -> list[dict[str, Any]]:
    """Configs of the metrics of a phase, 'val' or 'test'."""
    metrics = cfg.get(f'{phase}_evaluator') or ()
    return [metrics] if isinstance(metrics, dict) else list(metrics)


def _needs_masks(cfg: Config, phase: str, part: dict[str, Any]) -> bool | None:
    """Whether masks are trained on or evaluated; None if nothing tells."""
    if part.get('pipeline') is None:
        return None
    if phase == 'train':
        return reads_masks(part['pipeline'])
    return any('segm' in (m.get('metric') or ()) for m in _metrics(cfg, phase))


def _build(part: dict[str, Any]) -> Any:
    """Build a data set without reading its file."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(part)


def _other_files(cfg: Config, report: SetReport) -> list[str]:
    """Files of metrics that are not that of the set they evaluate.

    Each part of several has its own file; there the metric must know all.
    """
    found = []
    for phase in report.name.split(', '):
        for metric in _metrics(cfg, phase):
            path = metric.get('ann_file')
            if path and osp.realpath(path) != osp.realpath(report.ann_file):
                found.append(f'{metric.get("type")} of {phase}: {path}')
    return found


def _check_form(cfg: Config, report: SetReport, found: Annotations) -> None:
    """What the metrics of a set need of its file."""
    for phase in report.name.split(', '):
        kinds = {metric.get('type') for metric in _metrics(cfg, phase)}
        if 'DITOLVISMetric' in kinds and not report.problems():
            try:
                require_federated(found)
            except ValueError as error:
                report.findings += gather('metric_form', [error])


def _check_vocabulary(
    report: SetReport,
    cfg: Config,
    table: CategoryTable | None,
    load: Callable[[str], Any],
) -> None:
    """Compare the classes with the vocabulary file they will be given."""
    phase = 'train' if report.name.startswith('train') else 'test'
    for hook in cfg.get('custom_hooks') or ():
        if hook['type'] != 'DITOVocabularyHook' or not hook.get(phase):
            continue
        try:
            if table is not None:
                load(hook[phase]).subset(table.names)
        except (FileNotFoundError, ValueError) as error:
            report.findings += gather('vocabulary', [error])


def _compare(checked: list[Checked]) -> None:
    """Look for what a training set must not share with a test set."""
    for report, table, paths in checked:
        if not report.name.startswith('train'):
            continue
        if report.counts.get('used_boxes') == 0:
            report.findings += gather('no_boxes', [report.ann_file])
        for other, tested, its_paths in checked:
            if other.name.startswith('train'):
                continue
            shared = sorted(set(paths) & set(its_paths))
            report.findings += gather('shared_image', shared)
            if table is None or tested is None:
                continue
            novel = sorted(set(table.names) & set(tested.novel_classes))
            report.findings += gather('novel_in_training', map(repr, novel))

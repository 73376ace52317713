# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checks of all data sets of a config: classes, files, and what is shared."""

import os.path as osp
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..annotations import (
    Annotations,
    image_file,
    left_out,
    read_annotations,
    require_federated,
)
from ..categories import CategoryTable, build_category_table
from ..ov_dataset import OpenVocabularyDataset, reads_masks
from .annotation_checks import (
    Expected,
    Finding,
    SetReport,
    check_annotations,
    check_images,
    gather,
)

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# A report, its classes and the paths of its images.
Checked = tuple[SetReport, CategoryTable | None, list[str]]


def check_config(
    cfg: Config,
    max_images: int | None = None,
    workers: int = 1,
    load_vocabulary: Callable[[str], Any] | None = None,
) -> list[SetReport]:
    """Check every detection data set of a config; val and test may share one.

    Nothing is trained or loaded as a whole; names are compared, annotations
    looked through and images (``max_images`` of a set) decoded.
    ``load_vocabulary`` is :meth:`Vocabulary.load`, of the models, which data
    sets know nothing of; without it files of vocabularies are not looked at.
    ValueError if there is no detection data set.
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
        table = _check_classes(report, dataset, found)
        _check_form(cfg, report, found)
        images = _expected_images(dataset, found.images)
        report.findings += check_images(images, max_images, workers)
        if load_vocabulary is not None:
            _check_vocabulary(report, cfg, table, load_vocabulary)
        checked.append((report, table, [path for path, _, _ in images]))
    _compare(checked)
    return [report for report, _, _ in checked]


def check_files(
    ann_file: str, images: str, max_images: int | None = None, workers: int = 1
) -> SetReport:
    """Check an annotation file and its folder of images, without a config."""
    if not osp.isdir(images):
        raise FileNotFoundError(f'There is no folder {images} of images.')
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
            'ann_file; only detection sets can be checked, and a file of '
            'annotations by --data'
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
    """Files of metrics that are not that of the set they evaluate."""
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


# File names of base-only annotations, here and in other projects.
_BASE_FILE = re.compile(r'(^|[_-])(base|seen|norare)([_.-]|\d|$)')


def _check_classes(
    report: SetReport, dataset: Any, read: Annotations
) -> CategoryTable | None:
    """Compare classes with the file, count boxes; None if they misfit."""
    report.counts.update(
        images=len(read.images),
        annotations=read.number,
        categories=len(read.categories),
    )
    try:
        table = _table(dataset, read.categories)
        whole = _table(dataset, read.categories, 'all')
    except ValueError as error:
        kind = 'bad_classes'
        if 'not in the annotation file' in str(error):
            kind = 'missing_class'
        report.findings += gather(kind, [error])
        return None
    report.findings += [
        *_check_order(dataset, read.categories, table),
        *_check_spelling(table),
    ]
    _count_groups(report, read, table, whole)
    _count_left_out(report, read, table)
    return table


def _table(
    dataset: Any, categories: Sequence[dict], split: str | None = None
) -> CategoryTable:
    """Classes of a data set, of this package or of MMDetection."""
    if isinstance(dataset, OpenVocabularyDataset):
        # A split of nothing but base classes does not know the novel ones.
        try:
            return dataset.category_table(categories, split)
        except ValueError:
            if split is None or dataset.split == split:
                raise
            return dataset.category_table(categories)
    meta = dataset.metainfo
    return build_category_table(
        categories,
        classes=meta.get('classes'),
        novel_classes=meta.get('novel_classes') or (),
    )


def _check_order(
    dataset: Any, categories: Sequence[dict], table: CategoryTable
) -> list[Finding]:
    """MMDetection's own sets take labels from the order of the file."""
    if isinstance(dataset, OpenVocabularyDataset):
        return []
    wanted = set(table.names)
    in_file = [cat['name'] for cat in categories if cat['name'] in wanted]
    wrong = [
        f'{name!r} would get the label of {other!r}'
        for name, other in zip(in_file, table.names, strict=False)
        if name != other
    ]
    return gather('class_order', wrong)


def _check_spelling(table: CategoryTable) -> list[Finding]:
    """Names that were matched although they are spelt in another way."""
    pairs = zip(table.names, table.names_in_file, strict=True)
    changed = [f'{b!r} is {a!r} here' for a, b in pairs if a != b]
    return gather('respelt_class', changed, note=True)


def _count_groups(
    report: SetReport,
    read: Annotations,
    table: CategoryTable,
    whole: CategoryTable,
) -> None:
    """Count base, novel and unknown categories and their boxes."""
    boxes = Counter(ann['category_id'] for ann in read.annotations)
    name_of = {cat['id']: cat['name'] for cat in read.categories}
    novel = {
        number
        for number, new in zip(whole.ids, whole.novel, strict=True)
        if new
    }
    base = set(whole.ids) - novel
    unknown = set(name_of) - novel - base
    for group, ids in (('base', base), ('novel', novel), ('unknown', unknown)):
        report.counts[f'{group}_classes'] = len(ids)
        report.counts[f'{group}_boxes'] = sum(boxes[i] for i in ids)
    report.counts['classes'] = len(table)
    used = set(table.ids)
    left = sum(n for i, n in boxes.items() if i in name_of and i not in used)
    empty = [
        name
        for name, i in zip(table.names, table.ids, strict=True)
        if not boxes[i]
    ]
    strays = [
        f'{name_of[i]!r}: {boxes[i]} boxes' for i in sorted(novel) if boxes[i]
    ]
    is_base_file = _BASE_FILE.search(osp.basename(report.ann_file))
    report.findings += [
        *gather('unused_category', (repr(name_of[i]) for i in unknown), True),
        *gather('left_out_boxes', range(left), True, 0),
        *gather('class_without_boxes', map(repr, empty), True),
        *gather('wrong_split', strays if is_base_file else ()),
    ]


def _count_left_out(
    report: SetReport, read: Annotations, table: CategoryTable
) -> None:
    """Count what the data set leaves out, in the words of its log."""
    images = {image['id']: image for image in read.images}
    used = set(table.ids)
    reasons: Counter = Counter()
    boxes = 0
    for ann in read.annotations:
        if ann['category_id'] not in used:
            continue
        reason = left_out(ann, images[ann['image_id']])
        reasons[reason] += 1
        boxes += reason is None and not ann['iscrowd']
    report.counts['used_boxes'] = boxes
    del reasons[None]
    words = [f'{number} {reason}' for reason, number in reasons.items()]
    report.findings += [
        Finding('left_out_objects', sum(reasons.values()), words, note=True)
    ] * bool(words)


def _expected_images(dataset: Any, images: Sequence[dict]) -> list[Expected]:
    """Paths and sizes of the images that a data set would load."""
    folder = dataset.data_prefix.get('img', '')
    own = isinstance(dataset, OpenVocabularyDataset)
    find = dataset.image_file_name if own else image_file
    return [
        (osp.join(folder, name), image['width'], image['height'])
        for image in images
        if image_file(image) and (name := find(image))
    ]

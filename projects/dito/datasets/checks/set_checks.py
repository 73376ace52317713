# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Checks of one data set: its classes against its file, by name."""

import os.path as osp
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..annotations import Annotations, image_file, left_out
from ..categories import CategoryTable, build_category_table
from ..ov_dataset import OpenVocabularyDataset
from .findings import Finding, SetReport, gather
from .image_checks import Expected

# File names of base-only annotations, here and in other projects.
_BASE_FILE = re.compile(r'(^|[_-])(base|seen|norare)([_.-]|\d|$)')


def check_classes(
    report: SetReport, dataset: Any, read: Annotations
) -> CategoryTable | None:
    """Compare the classes of a data set with its file and count boxes.

    Args:
        report (SetReport): Gets findings and counts.
        dataset (BaseDetDataset): Built without loading the file.
        read (Annotations): The file.

    Returns:
        CategoryTable | None: The classes; None if they do not fit the file.
    """
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


def expected_images(dataset: Any, images: Sequence[dict]) -> list[Expected]:
    """Paths and sizes of the images that a data set would load.

    Args:
        dataset (BaseDetDataset): The data set.
        images (Sequence[dict]): Of the annotation file.

    Returns:
        list[tuple]: Path, width and height of those that have a file.
    """
    folder = dataset.data_prefix.get('img', '')
    own = isinstance(dataset, OpenVocabularyDataset)
    find = dataset.image_file_name if own else image_file
    return [
        (osp.join(folder, name), image['width'], image['height'])
        for image in images
        if image_file(image) and (name := find(image))
    ]

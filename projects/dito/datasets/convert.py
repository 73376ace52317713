# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Write annotation files that hold only some of the classes."""

import json
import os
from typing import Collection, Dict, Optional, Sequence

from .categories import CategoryTable, build_category_table

_ID_LISTS = ('neg_category_ids', 'not_exhaustive_category_ids')


def select_classes(
    content: dict,
    table: CategoryTable,
    drop_empty: bool = False,
) -> dict:
    """Leave in an annotation file what concerns the chosen classes.

    Nothing of the other classes stays, neither their boxes and names nor
    their ids in LVIS's lists of absent categories. Ids are kept, so results
    on the small file can be compared with the whole one.

    Args:
        content (dict): A COCO or LVIS style annotation file.
        table (CategoryTable): The classes to keep.
        drop_empty (bool): Whether to leave out images without any object of
            these classes. Defaults to False.

    Returns:
        dict: A new annotation file; entries are shared with the old one
        where they are unchanged.
    """
    kept = set(table.ids)
    annotations = [
        ann for ann in content['annotations'] if ann['category_id'] in kept
    ]
    used = {ann['image_id'] for ann in annotations}
    images = [
        _select_ids(image, kept)
        for image in content['images']
        if image['id'] in used or not drop_empty
    ]
    categories = [cat for cat in content['categories'] if cat['id'] in kept]
    return dict(
        content, images=images, categories=categories, annotations=annotations
    )


def _select_ids(image: dict, kept: set) -> dict:
    """Filter the lists of category ids that LVIS images have."""
    lists = {
        field: [cat for cat in image[field] if cat in kept]
        for field in _ID_LISTS
        if field in image
    }
    return dict(image, **lists) if lists else image


def convert_file(
    source: str,
    target: str,
    *,
    split: str,
    classes: Optional[Sequence[str]] = None,
    base_classes: Optional[Collection[str]] = None,
    novel_classes: Optional[Collection[str]] = None,
    drop_empty: bool = False,
) -> Dict[str, int]:
    """Read an annotation file and write the part of some classes.

    Args:
        source (str): Annotation file to read.
        target (str): File to write; complete or not there at all.
        split (str): 'base' or 'all'.
        classes (Sequence[str], optional): Classes to choose from; None for
            all of the file.
        base_classes (Collection[str], optional): Names of base classes.
        novel_classes (Collection[str], optional): Names of novel classes; if
            neither is given, the LVIS frequency 'r' decides.
        drop_empty (bool): Whether to leave out images without objects.

    Returns:
        dict[str, int]: Number of ``images``, ``annotations`` and
        ``categories`` written.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If source and target are the same file, or if the file
            does not have the classes.
    """
    if not os.path.exists(source):
        raise FileNotFoundError(f'annotation file {source} does not exist')
    if os.path.realpath(source) == os.path.realpath(target):
        raise ValueError(f'{source} would be overwritten; name another file')
    with open(source) as file:
        content = json.load(file)
    table = build_category_table(
        content['categories'],
        split=split,
        classes=classes,
        base_classes=base_classes,
        novel_classes=novel_classes,
    )
    selected = select_classes(content, table, drop_empty)
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    unfinished = f'{target}.{os.getpid()}.tmp'
    with open(unfinished, 'w') as file:
        json.dump(selected, file)
    os.replace(unfinished, target)
    fields = ('images', 'annotations', 'categories')
    return {field: len(selected[field]) for field in fields}
